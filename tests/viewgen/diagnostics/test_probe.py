"""The linear probe against a double loop written from its definition, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score

from viewgen.diagnostics.features import Features
from viewgen.diagnostics.probe import ProbeConfig, linear_probe, probe_config
from viewgen.errors import DataError, UsageError, ViewgenError
from viewgen.randomness import addressed_generator

SMALL = ProbeConfig(epochs=3, batch_size=8, learning_rate=0.5, momentum=0.9, weight_decay=0.01, num_seeds=2)


def make_features(count: int, num_attributes: int | None = None, seed: int = 0) -> Features:
    """Classes 0 to 2 by noisy projections, one per attribute: they overlap."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=random, dtype=torch.float64)
    noisy = x[:, : num_attributes or 1] + 0.4 * torch.randn(
        count, num_attributes or 1, generator=random, dtype=torch.float64
    )
    labels = (noisy > -0.5).long() + (noisy > 0.5).long()
    return Features(embeddings=x, labels=labels if num_attributes else labels[:, 0])


def by_hand(train, test, config, seed, probe, attribute, num_attributes):
    """SGD on one softmax classifier, sample by sample; returns accuracy, weights, biases."""
    x, y = train.embeddings.tolist(), train.attributes[:, attribute].tolist()
    classes, width = 3, len(x[0])
    start = torch.randn(
        width, num_attributes * classes, generator=addressed_generator(seed, "probe start", probe)
    )
    own = start.T.reshape(num_attributes, classes, width)[attribute]
    w = (0.01 * own).double().numpy()
    w = np.concatenate([w, np.zeros((classes, 1))], axis=1)  # the bias is the weight of a 1
    velocity = np.zeros_like(w)
    for epoch in range(config.epochs):
        rate = config.rate(epoch)
        order = torch.randperm(
            len(x), generator=addressed_generator(seed, "probe order", probe, epoch)
        ).tolist()
        for begin in range(0, len(x), config.batch_size):
            batch = order[begin : begin + config.batch_size]
            gradient = config.weight_decay * w
            for row in batch:
                inputs = np.array([*x[row], 1.0])
                scores = [math.exp(float(w[k] @ inputs)) for k in range(classes)]
                for k in range(classes):
                    error = scores[k] / sum(scores) - (k == y[row])
                    gradient[k] += error * inputs / len(batch)
            velocity = config.momentum * velocity + gradient
            w = w - rate * velocity
    correct = 0
    for inputs, label in zip(test.embeddings.tolist(), test.attributes[:, attribute].tolist(), strict=True):
        correct += int(np.argmax(w @ np.array([*inputs, 1.0]))) == label
    return correct / len(test), w[:, :-1], w[:, -1]


@pytest.mark.parametrize("num_attributes", [None, 2])
def test_it_is_plain_sgd(num_attributes):
    """Each of the probes that train together has the weights of one that trains alone."""
    train, test = make_features(21, num_attributes), make_features(30, num_attributes, seed=1)
    found = linear_probe(train, test, SMALL, seed=4)
    count = num_attributes or 1
    assert found.top1.shape == (2, count)
    for probe in range(2):
        for attribute in range(count):
            top1, weight, bias = by_hand(train, test, SMALL, 4, probe, attribute, count)
            # float32 start, float64 ever after
            np.testing.assert_allclose(found.weight[probe, attribute].numpy(), weight, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(found.bias[probe, attribute].numpy(), bias, rtol=1e-7, atol=1e-8)
            assert found.top1[probe, attribute] == pytest.approx(top1)


def test_it_converges_to_scikit_learns_logistic_regression():
    """With weight decay λ the optimum is that of C = 1 / (λ·N); both also hold the bias small."""
    train, test = make_features(200), make_features(300, seed=1)
    config = ProbeConfig(epochs=400, batch_size=200, learning_rate=2.0, weight_decay=0.01, num_seeds=2)
    found = linear_probe(train, test, config)
    with_one = [np.concatenate([part.embeddings, np.ones((len(part), 1))], axis=1) for part in (train, test)]
    reference = LogisticRegression(C=1 / (0.01 * 200), fit_intercept=False, tol=1e-10, max_iter=1000)
    reference.fit(with_one[0], train.labels.numpy())
    expected = reference.score(with_one[1], test.labels.numpy())
    assert 0.6 < expected < 0.95
    for probe in range(2):
        assert found.top1[probe, 0] == pytest.approx(expected)
        ours = torch.cat([found.weight[probe, 0], found.bias[probe, 0, :, None]], dim=1)
        np.testing.assert_allclose(ours.numpy(), reference.coef_, atol=1e-5)


def test_a_seed_does_not_depend_on_how_many_there_are():
    train, test = make_features(40), make_features(40, seed=1)
    two = linear_probe(train, test, SMALL)
    five = linear_probe(train, test, SMALL.replace(num_seeds=5))
    torch.testing.assert_close(five.weight[:2], two.weight)
    assert len({tuple(weight.flatten().tolist()) for weight in five.weight}) == 5
    assert not linear_probe(train, test, SMALL, seed=1).weight.allclose(two.weight)


def test_mean_and_deviation_are_over_seeds():
    train, test = make_features(40, 2), make_features(50, 2, seed=1)
    found = linear_probe(train, test, SMALL)
    first, second = found.top1.mean(axis=1)
    assert found.mean == pytest.approx((first + second) / 2)
    assert found.deviation == pytest.approx(abs(first - second) / math.sqrt(2))
    assert linear_probe(train, test, SMALL.replace(num_seeds=1)).deviation == 0


def test_augmented_features_are_asked_for_each_seed_and_epoch():
    train, test = make_features(20), make_features(20, seed=1)
    asked = []

    def augmented(seed, epoch, rows):
        asked.append((seed, epoch, len(rows)))
        return train.embeddings[rows]

    config = SMALL.replace(augmentation="crop")
    with pytest.raises(UsageError, match="augmentation is 'crop'"):
        linear_probe(train, test, config)
    found = linear_probe(train, test, config, augmented=augmented)
    assert sorted(set(asked)) == [(s, e, n) for s in range(2) for e in range(3) for n in (4, 8)]
    assert sum(count for *_, count in asked) == 2 * 3 * 20
    # an augmentation that changes nothing
    torch.testing.assert_close(found.weight, linear_probe(train, test, SMALL).weight)


def test_rates_of_the_recipes():
    cifar10, cifar100, other = (probe_config(name) for name in ("cifar10", "cifar100", "folder:/data"))
    assert (cifar10.epochs, cifar10.batch_size, cifar10.num_seeds, cifar10.weight_decay) == (100, 256, 5, 0.0)
    assert [cifar10.rate(epoch) for epoch in (0, 50)] == pytest.approx([30, 15])
    assert cifar10.rate(99) == pytest.approx(15 * (1 + math.cos(math.pi * 0.99)))
    assert [cifar100.rate(epoch) for epoch in (0, 59, 60, 75, 90, 99)] == pytest.approx(
        [0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008]
    )
    assert probe_config("tinyimagenet") == cifar100
    assert other == cifar10
    assert probe_config("cifar100", learning_rate=1, num_seeds=2).rate(0) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected greater than or equal to 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected greater than 0"),
        ({"momentum": 1.0}, "momentum is 1.0; expected less than 1"),
        ({"schedule": "linear"}, "expected 'cosine' or 'steps'"),
        ({"augmentation": "flip"}, "augmentation is 'flip'; expected 'none', 'crop' or 'expert'"),
        ({"learning_rates": 1.0}, "did you mean 'learning_rate'"),
        ({"epochs": "many"}, "epochs is 'many'; expected a valid integer"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        probe_config("digits", **setting)


def test_features_that_do_not_fit_are_refused():
    train = make_features(20)
    narrow = Features(embeddings=train.embeddings[:, :4], labels=train.labels)
    with pytest.raises(DataError, match=r"\(20, 5\)"):
        linear_probe(train, narrow, SMALL)
    with pytest.raises(DataError, match=r"\(20, 2\)"):
        linear_probe(train, make_features(20, 2), SMALL)


def test_a_loss_that_is_not_finite_is_an_error():
    train = make_features(20)
    broken = Features(embeddings=train.embeddings * 1e200, labels=train.labels)
    with pytest.raises(ViewgenError, match=r"not finite at learning rate 0\.5"):
        linear_probe(broken, broken, SMALL)


def test_the_five_likeliest_of_many_classes_are_those_of_scikit_learn():
    random = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.arange(240) % 12, torch.arange(240) % 10], dim=1)
    labels = labels[torch.randperm(240, generator=random)]
    x = torch.nn.functional.one_hot(labels[:, 0], 12).double()
    x = x + torch.randn(240, 12, generator=random, dtype=torch.float64)
    train, test = (
        Features(embeddings=x[part], labels=labels[part]) for part in (slice(160), slice(160, 240))
    )
    found = linear_probe(train, test, SMALL)
    for seed in range(2):
        logits = test.embeddings @ found.weight[seed, 0].T + found.bias[seed, 0]
        expected = top_k_accuracy_score(test.labels[:, 0], logits, k=5, labels=range(12))
        assert found.top1[seed, 0] < expected < 1
        assert found.top5[seed, 0] == pytest.approx(expected)
    assert np.isnan(found.top5[:, 1]).all(), "of ten classes it says little"
