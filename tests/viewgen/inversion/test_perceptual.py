"""Perceptual distances: laws, and LPIPS against the package's own forward value.

LPIPS's trunk is loaded from a file with random weights, as torchvision would have downloaded it.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.inversion.perceptual import (
    LPIPS_TRUNK,
    DiscriminatorDistance,
    LpipsDistance,
    PerceptualDistance,
    build_perceptual,
    check_perceptual,
    lpips_trunk,
)
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.recipes import recipe

CPU = torch.device("cpu")


def images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A torch hub folder whose VGG16 has random features; the unused classifier takes no space on disk."""
    folder = tmp_path_factory.mktemp("hub")
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in import_torchvision("models").vgg16().state_dict().items()
        }
    random = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        if key.startswith("features") and key.endswith("weight"):
            fan_in = shape[1:].numel()
            state[key] = torch.randn(shape, generator=random) * (2 / fan_in) ** 0.5
        else:
            state[key] = torch.zeros(1).expand(shape)
    (folder / "checkpoints").mkdir()
    torch.save(state, folder / "checkpoints" / LPIPS_TRUNK)
    before = torch.hub.get_dir()
    torch.hub.set_dir(folder)
    yield folder
    torch.hub.set_dir(before)


@pytest.fixture(scope="module")
def lpips_distance(hub: Path) -> LpipsDistance:
    return LpipsDistance(CPU)


@pytest.fixture(params=["discriminator", "lpips"])
def distance_and_size(request, small_models) -> tuple[PerceptualDistance, int]:
    if request.param == "lpips":
        return request.getfixturevalue("lpips_distance"), 16
    return DiscriminatorDistance(small_models.discriminator), 8


def between(distance: PerceptualDistance, first: Tensor, second: Tensor) -> Tensor:
    return distance.distance(distance.features(first), distance.features(second))


@torch.no_grad()
def test_zero_on_equal_images_symmetric_and_positive(distance_and_size):
    distance, size = distance_and_size
    x, y = images(3, size), images(3, size, seed=1)
    assert between(distance, x, x).tolist() == [0, 0, 0]
    assert torch.equal(between(distance, x, y), between(distance, y, x))
    assert between(distance, x, y).min() > 0
    near = between(distance, x, x + 0.05 * (y - x))
    assert bool((near < between(distance, x, y)).all())


@torch.no_grad()
def test_each_pair_has_its_own_distance(distance_and_size):
    distance, size = distance_and_size
    x, y = images(4, size), images(4, size, seed=1)
    alone = torch.cat([between(distance, x[row : row + 1], y[row : row + 1]) for row in range(4)])
    # float32 networks at another batch size
    torch.testing.assert_close(between(distance, x, y), alone, rtol=1e-4, atol=1e-6)


def test_descending_the_gradient_brings_images_closer(distance_and_size):
    distance, size = distance_and_size
    x, target = images(2, size).requires_grad_(), distance.features(images(2, size, seed=1))
    before = distance.distance(distance.features(x), target)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert bool(torch.isfinite(gradient).all())
    moved = x.detach() - 0.01 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    assert bool((distance.distance(distance.features(moved), target) < before).all())


@torch.no_grad()
def test_discriminator_distance_equals_a_loop(small_models):
    x, y = images(2, 8), images(2, 8, seed=1)
    found = between(DiscriminatorDistance(small_models.discriminator), x, y)
    for pair in range(2):
        total = 0.0
        blocks = small_models.discriminator.features(torch.stack([x[pair], y[pair]]))[1:]
        for block in blocks:
            height, width = block.shape[2:]
            for row in range(height):
                for column in range(width):
                    a, b = block[:, :, row, column].double()
                    gap = a / a.square().sum().sqrt() - b / b.square().sum().sqrt()
                    total += gap.square().sum().item() / (height * width) / len(blocks)
        assert found[pair].item() == pytest.approx(total, rel=1e-4)  # float32, and 1e-8 under the root


@torch.no_grad()
def test_lpips_equals_the_packages_own_value(lpips_distance, hub):
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="vgg", verbose=False)
    x, y = images(3, 32), images(3, 32, seed=1)
    expected = reference(x, y).flatten()
    assert expected.min() > 0
    torch.testing.assert_close(between(lpips_distance, x, y), expected, rtol=1e-5, atol=0)


def test_lpips_has_a_finite_gradient_where_all_features_are_0(lpips_distance):
    """The normalisation has no gradient there; the trunk's ReLU keeps that from the image."""
    scaling = lpips_distance.network.scaling_layer
    x = scaling.shift.expand(1, 3, 16, 16).clone().requires_grad_()  # the trunk's input is exactly 0
    features = lpips_distance.features(x)
    assert all(float(layer.detach().abs().max()) == 0 for layer in features)
    target = lpips_distance.features(images(1, 16))
    distance = lpips_distance.distance(features, target)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert bool(torch.isfinite(distance).all())
    assert bool(torch.isfinite(gradient).all())


def test_a_damaged_trunk_is_named(hub):
    path = lpips_trunk()
    assert path == hub / "checkpoints" / LPIPS_TRUNK
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptDataError, match=LPIPS_TRUNK):
            LpipsDistance(CPU)
    finally:
        path.write_bytes(whole)


def test_missing_weights_of_lpips_are_an_error_that_says_where_they_are(hub, tmp_path):
    check_perceptual("lpips", has_discriminator=False)
    torch.hub.set_dir(tmp_path)
    try:
        # a discriminator does not take their place
        with pytest.raises(MissingFileError, match=f"(?s){tmp_path}.*download.pytorch.org.*perceptual="):
            check_perceptual("lpips", has_discriminator=True)
    finally:
        torch.hub.set_dir(hub)


def test_every_recipe_names_its_perceptual_term_and_weight():
    found = {}
    for name in ("digits", "fashion-mnist", "cifar10", "cifar100", "tinyimagenet", "folder:pictures"):
        values = recipe(name, "invert")
        assert "perceptual_weight" in values
        found[name] = InvertConfig(**values).perceptual
    assert found == {
        "digits": "none",
        "fashion-mnist": "discriminator",
        "cifar10": "lpips",
        "cifar100": "lpips",
        "tinyimagenet": "lpips",
        "folder:pictures": "discriminator",
    }


def test_inversions_of_0_1_0_keep_their_identity():
    """0.1.0 recorded the term that its "auto" had come to."""
    before = {
        "learning_rate": 0.02,
        "max_steps": 100,
        "perceptual": "discriminator",
        "perceptual_weight": 0.2,
        "domain_weight": 2.0,
        "patience": 20,
        "precision": "float32",
    }
    config = InvertConfig.from_record(before)
    assert config.solver == "adam"
    assert config.record() == before
    ours = InvertConfig(**recipe("fashion-mnist", "invert")).replace(solver="adam", max_steps=100)
    assert ours.record() == before


def test_what_cannot_be_had_is_refused(small_models):
    with pytest.raises(UsageError, match=r"'vgg'.*lpips, discriminator"):
        check_perceptual("vgg", has_discriminator=True)
    with pytest.raises(UsageError, match=r"no discriminator.*perceptual=lpips or none"):
        check_perceptual("discriminator", has_discriminator=False)
    check_perceptual("none", has_discriminator=False)
    with pytest.raises(UsageError, match="no discriminator"):
        build_perceptual("discriminator", None, CPU)
    assert build_perceptual("none", small_models.discriminator, CPU) is None
    assert isinstance(
        build_perceptual("discriminator", small_models.discriminator, CPU), DiscriminatorDistance
    )
