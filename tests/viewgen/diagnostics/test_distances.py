"""Statistics of feature sets against scipy, torchmetrics, double loops and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from viewgen.diagnostics import distances, feature_nets
from viewgen.diagnostics.distances import frechet_distance, kernel_distance, precision_recall, psnr
from viewgen.diagnostics.feature_nets import EncoderFeatures, InceptionFeatures, has_inception
from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import file_digest
from viewgen.networks.torchvision_import import import_torchvision


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(count: int, dim: int, seed: int) -> Tensor:
    """Correlated features."""
    return normal(count, dim, seed=seed) @ normal(dim, dim, seed=seed + 50) + normal(dim, seed=seed + 90)


@pytest.mark.parametrize(("count", "dim"), [(60, 5), (200, 32)])
def test_frechet_distance_equals_the_formula_by_scipys_square_root(count, dim):
    x, y = mixed(count, dim, 1), mixed(count + 7, dim, 2)
    mean_x, mean_y = x.mean(dim=0).numpy(), y.mean(dim=0).numpy()
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_equals_that_of_torchmetrics():
    import_torchvision()
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = mixed(80, 12, 3), mixed(90, 12, 4)
    means = x.mean(dim=0), y.mean(dim=0)
    expected = fid._compute_fid(means[0], torch.cov(x.T), means[1], torch.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-8)


def test_frechet_distance_in_closed_form():
    x = mixed(50, 6, 5)
    shift = torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(shift.square().sum().item())
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    # scaling every deviation by 3: tr((3 − 1)² Σ)
    centre = x.mean(dim=0)
    expected = 4 * torch.cov(x.T).trace().item()
    assert frechet_distance(centre + 3 * (x - centre), x) == pytest.approx(expected)
    # fewer samples than dimensions: singular covariances
    few, others = normal(4, 10, seed=6), normal(5, 10, seed=7)
    assert frechet_distance(few, others) == pytest.approx(frechet_distance(others, few), rel=1e-6)
    with pytest.raises(UsageError, match="got 1 and 50"):
        frechet_distance(x[:1], x)


def test_unscaled_kernel_distance_is_kid():
    import_torchvision()
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = mixed(40, 8, 8), mixed(40, 8, 9)
    expected = kid.poly_mmd(x, y, degree=3, coef=1.0).item()
    assert kernel_distance(x, y, scaled=False) == pytest.approx(expected, rel=1e-8)
    assert kernel_distance(x, y) != pytest.approx(expected, rel=1e-3)


def reach_by_hand(features: Tensor, k: int) -> list[float]:
    return [sorted(math.dist(a, b) for b in features.tolist())[k] for a in features.tolist()]


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_a_double_loop(k, monkeypatch):
    generated, real = normal(25, 3, seed=1) * 1.5, normal(31, 3, seed=2)

    def share(probes: Tensor, centres: Tensor) -> float:
        reach = reach_by_hand(centres, k)
        hits = [
            any(math.dist(p, c) <= r for c, r in zip(centres.tolist(), reach, strict=True))
            for p in probes.tolist()
        ]
        return sum(hits) / len(hits)

    expected = (share(generated, real), share(real, generated))
    assert 0 < expected[0] < 1
    assert precision_recall(generated, real, num_neighbours=k) == pytest.approx(expected)
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", 4)
    assert precision_recall(generated, real, num_neighbours=k) == pytest.approx(expected)


def test_precision_and_recall_of_equal_and_of_far_sets():
    x = normal(20, 4)
    assert precision_recall(x, x.clone()) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)
    # samples of one mode of two: all are near real images, half of the images are not reached
    both = torch.cat([x, x + 100])
    precision, recall = precision_recall(x, both)
    assert precision == 1.0
    assert recall == 0.5
    with pytest.raises(UsageError, match="got 3 and 20"):
        precision_recall(x[:3], x)


def test_statistics_on_an_encoder_carry_its_name():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig(image_size=8, width=4, projection_dim=8)).eval()
    net = EncoderFeatures(encoder)
    assert net.name("frechet_distance") == "frechet_distance[viewgen encoder]"
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(net.features(images), encoder.embed(to_model(images)))


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory) -> Path:
    """Random weights in the layout of FID's Inception network."""
    pytest.importorskip("torch_fidelity")
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            """Keep the random weights."""

    folder = tmp_path_factory.mktemp("hub") / "checkpoints"
    folder.mkdir()
    torch.save({}, folder / "none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Random("random", ["2048"], feature_extractor_weights_path=str(folder / "none"))
    torch.save(network.state_dict(), folder / "weights")
    digest = file_digest(folder / "weights").removeprefix("sha256:")[:8]
    return (folder / "weights").rename(folder / f"weights-inception-{digest}.pth")


def test_inception_features_give_fid_and_kid(inception_weights, monkeypatch):
    monkeypatch.setattr(feature_nets, "INCEPTION", inception_weights.name)
    before = torch.hub.get_dir()
    torch.hub.set_dir(inception_weights.parent.parent)
    try:
        assert has_inception()
        net = InceptionFeatures(torch.device("cpu"))
        assert [net.name(s) for s in ("frechet_distance", "kernel_distance", "recall")] == [
            "fid", "kid", "recall[inception]",
        ]  # fmt: skip
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        features = net.features(images)
        assert features.shape == (2, 2048)
        assert features.dtype == torch.float32
        inception_weights.write_bytes(b"other")
        with pytest.raises(CorruptDataError, match="damaged or another file"):
            InceptionFeatures(torch.device("cpu"))
    finally:
        torch.hub.set_dir(before)


def test_absent_inception_weights_are_named(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        assert not has_inception()
        with pytest.raises(
            MissingFileError, match=r"weights-inception-2015-12-05-6726825d\.pth \(from https"
        ):
            InceptionFeatures(torch.device("cpu"))
    finally:
        torch.hub.set_dir(before)


def test_kernel_distance_equals_a_double_loop(monkeypatch):
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5
    scale = math.sqrt(sum(value**2 for value in y.flatten().tolist()) / y.numel())

    def kernel(a: Tensor, b: Tensor) -> float:
        dot = sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / scale**2
        return (dot / 3 + 1) ** 3

    within_x = [kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j]
    within_y = [kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j]
    across = [kernel(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(distances, "KERNEL_ROWS", 2)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_0_on_average_for_one_distribution_and_grows_with_a_shift():
    same = [kernel_distance(normal(200, 8, seed=2 * s), normal(200, 8, seed=2 * s + 1)) for s in range(30)]
    spread = np.std(same) / math.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * spread  # unbiased
    assert min(same) < 0 < max(same)
    shifted = [kernel_distance(normal(200, 8) + shift, normal(200, 8, seed=1)) for shift in (0.2, 0.5, 1.0)]
    assert np.std(same) * 3 < shifted[0] < shifted[1] < shifted[2]


def test_kernel_distance_has_no_unit():
    x, y = normal(20, 4), normal(30, 4, seed=1) + 1
    assert kernel_distance(1000 * x, 1000 * y) == pytest.approx(kernel_distance(x, y))


def test_kernel_distance_needs_two_features_on_each_side():
    with pytest.raises(UsageError, match="got 1 and 5"):
        kernel_distance(normal(1, 3), normal(5, 3))


@pytest.mark.parametrize("offset", [2.0, 0.5, 0.01])
def test_psnr_of_a_constant_offset(offset):
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    # peak 2, mean squared error offset²
    assert psnr(x, x + offset).tolist() == pytest.approx([20 * math.log10(2 / offset)] * 2)


def test_psnr_of_equal_images_is_large_and_finite():
    x = torch.zeros(1, 3, 4, 4)
    assert 100 < psnr(x, x).item() < math.inf
