"""The limit of InfoNCE: a double loop, lifting, curvature against derivatives, and optimal values."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.shortcuts.diagnostic import Shortcuts, ShortcutsConfig, between_classes
from viewgen.diagnostics.shortcuts.limit import lift, lifted_curvature, lim_nce, optimal_value
from viewgen.errors import CorruptDataError, UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig

N, D, TAU = 12, 3, 0.3
WAYS = ("pairs", "printed")


@pytest.fixture
def points():
    random = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(N, D, generator=random, dtype=torch.float64), dim=1)


@pytest.fixture
def positives():
    label = torch.arange(N) % 4
    return (label[:, None] == label).double()


@pytest.mark.parametrize("way", WAYS)
def test_the_value_is_the_printed_double_loop(points, positives, way):
    total = float(positives.sum()) if way == "pairs" else N * N
    attraction = spread = 0.0
    for i in range(N):
        inner = 0.0
        for j in range(N):
            product = float(points[i] @ points[j])
            attraction += float(positives[i, j]) * product / (TAU * total)
            inner += math.exp(product / TAU) / N
        spread += math.log(inner) / N
    assert float(lim_nce(points, positives, TAU, way)) == pytest.approx(spread - attraction, rel=1e-12)


@pytest.mark.parametrize("dim", [3, 4, 9])
def test_lifting_keeps_value_and_gradient(points, positives, dim):
    places = torch.randperm(dim, generator=torch.Generator().manual_seed(dim))[:D]
    low = points.clone().requires_grad_()
    high = lift(points, places, dim).requires_grad_()
    values = [lim_nce(one, positives, TAU) for one in (low, high)]
    gradients = [torch.autograd.grad(*pair)[0] for pair in zip(values, (low, high), strict=True)]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(gradients[1], lift(gradients[0], places, dim), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_the_printed_one(points, positives, way):
    """Li et al., appendix A, whose last line is right; positives need not be symmetric."""
    positives = positives * (torch.arange(N)[:, None] >= torch.arange(N) - 3)
    total = float(positives.sum()) if way == "pairs" else N * N
    z, e = points, (points @ points.T / TAU).exp()
    expected = torch.zeros_like(z)
    for k in range(N):
        attracted = sum((positives[k, i] + positives[i, k]) * z[i] for i in range(N))
        own = z[k] * e[k, k] + sum(z[j] * e[k, j] for j in range(N))
        others = sum(z[i] * e[i, k] / e[i].sum() for i in range(N) if i != k)
        expected[k] = -attracted / (TAU * total) + (own / e[k].sum() + others) / (TAU * N)
    leaf = points.clone().requires_grad_()
    (found,) = torch.autograd.grad(lim_nce(leaf, positives, TAU, way), leaf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [4, 9])
def test_lifting_and_projecting_to_the_sphere_commute(points, positives, dim):
    """On the sphere, too, the gradient of lifted points is the lifted gradient."""

    def tangential(vectors, at):
        return vectors - (vectors * at).sum(dim=1, keepdim=True) * at

    places = torch.randperm(dim, generator=torch.Generator().manual_seed(dim))[:D]
    vectors = torch.randn(N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lifted = lift(points, places, dim)
    torch.testing.assert_close(
        lift(tangential(vectors, points), places, dim),
        tangential(lift(vectors, places, dim), lifted),
        rtol=0,
        atol=1e-14,
    )
    gradients = []
    for each in (points.clone().requires_grad_(), lifted.clone().requires_grad_()):
        (gradient,) = torch.autograd.grad(lim_nce(each, positives, TAU), each)
        gradients.append(tangential(gradient, each.detach()))
    torch.testing.assert_close(gradients[1], lift(gradients[0], places, dim), rtol=0, atol=1e-12)


def test_no_hessian_is_definite(points, positives):
    """A rotation of all points changes nothing: the definiteness of a minimum is one modulo rotations."""

    def turned(angles):
        generator = torch.zeros(D, D, dtype=torch.float64)
        rows, columns = torch.triu_indices(D, D, 1)
        generator = generator.index_put((rows, columns), angles)
        return lim_nce(points @ torch.matrix_exp(generator - generator.T), positives, TAU)

    zero = torch.zeros(D * (D - 1) // 2, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(turned, zero)
    torch.testing.assert_close(hessian, torch.zeros_like(hessian), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_the_curvature_is_half_the_hessian_along_a_new_coordinate(points, positives, way):
    def moved(t):
        shrunk = points * (1 - t.square()).sqrt()[:, None]
        return lim_nce(torch.cat([shrunk, t[:, None]], dim=1), positives, TAU, way)

    zero = torch.zeros(N, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(moved, zero)
    found = lifted_curvature(points, positives, TAU, way)
    torch.testing.assert_close(found, hessian / 2, rtol=0, atol=1e-12)
    t = 1e-3 * torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(moved(t) - moved(zero)) == pytest.approx(float(t @ found @ t), rel=1e-4)


@pytest.fixture
def subject_of(monkeypatch):
    """Return a function (views) of a subject of seven images with these projections, and further parts."""
    dataset = ImageDataset(
        name="seven", split="test", image_size=4, num_classes=2, class_names=("a", "b"),
        pixels=MemoryImages(np.zeros((7, 3, 4, 4), np.uint8)), targets=np.arange(7) % 2,
    )  # fmt: skip
    encoder = Encoder(EncoderConfig(image_size=4, backbone="convnet", width=1))

    def make(views, **parts):
        monkeypatch.setattr(Shortcuts, "_projections", lambda *_: views.flatten(0, 1))
        return Subject({"test": lambda: dataset, "encoder": lambda: encoder, **parts})

    return make


def test_two_views_are_attracted_to_each_other_alone(subject_of):
    """The measured loss is alignment plus uniformity: no view attracts itself."""
    random = torch.Generator().manual_seed(3)
    views = F.normalize(torch.randn(2, 7, D, generator=random, dtype=torch.float64), dim=2)
    measures = Shortcuts(ShortcutsConfig(num_images=7, temperature=TAU)).measure(subject_of(views), 0)
    alignment = (views[0] * views[1]).sum(dim=1).mean() / TAU
    points = views.flatten(0, 1)
    uniformity = (points @ points.T / TAU).exp().mean(dim=1).log().mean()
    found = {one.name: one.value for one in measures}
    assert found["lim_nce"] == pytest.approx(float(uniformity - alignment), rel=1e-12)


FLAT = {"assimilation": "A1", "loss": "infonce", "temperature": 0.3}


@pytest.mark.parametrize(
    ("config", "tau"),
    [
        ({"objective": {"name": "moco", "settings": {"temperature": 0.2}}}, 0.2),
        ({"objective": {"name": "vicreg", "settings": {}}}, 0.1),
        (FLAT, 0.3),
        (FLAT | {"assimilation": "A2-simsiam"}, 0.1),
        (FLAT | {"loss": "simsiam"}, 0.1),
        (None, 0.1),
    ],
)
def test_the_temperature_is_the_trainings_own(subject_of, tmp_path, config, tau):
    views = F.normalize(torch.randn(2, 7, D, dtype=torch.float64), dim=2)
    parts = {} if config is None else {"run": lambda: tmp_path}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    for given in (None, 0.7):
        measures = Shortcuts(ShortcutsConfig(temperature=given)).measure(subject_of(views, **parts), 0)
        (optimum,) = [one for one in measures if one.name == "optimal_lim_nce"]
        assert optimum.value == pytest.approx(optimal_value(D, given or tau))
        assert f"τ {given or tau:g}" in optimum.on


def test_a_damaged_record_of_a_training_is_named(subject_of, tmp_path):
    views = F.normalize(torch.randn(2, 7, D, dtype=torch.float64), dim=2)
    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"objective": {"settings": {"temperature": "hot"}}}})
    )
    with pytest.raises(CorruptDataError, match=r"config\.json has the temperature 'hot'"):
        Shortcuts(ShortcutsConfig()).measure(subject_of(views, run=lambda: tmp_path), 0)


def test_equal_points_are_a_saddle(positives):
    points = F.normalize(torch.ones(N, D, dtype=torch.float64), dim=1)
    values, vectors = torch.linalg.eigh(lifted_curvature(points, positives, TAU))
    assert values[0] < -1e-3
    # the way out parts classes, and no images of one class
    assert between_classes(vectors[:, 0], torch.arange(N) % 4) == pytest.approx(1)


@pytest.mark.parametrize("tau", [0.1, 0.2, 0.5])
def test_the_way_out_of_a_shortcut_is_the_suppressed_attribute(tau):
    """Points tell the shortcut's 8 values apart; views move along it and keep the hidden attribute.

    With positives that keep the shortcut too, every pattern of opposite signs within its values is as good
    a way out as the hidden attribute.
    """
    shortcut, hidden = torch.arange(16) // 2, torch.arange(16) % 2
    angle = 2 * math.pi * shortcut / 8
    points = torch.stack([angle.cos(), angle.sin()], dim=1).double()
    apart = (shortcut[:, None] - shortcut).abs()
    near = torch.minimum(apart, 8 - apart) <= 1
    positives = (near & (hidden[:, None] == hidden)).double()
    values, vectors = torch.linalg.eigh(lifted_curvature(points, positives, tau))
    assert values[0] < values[1] - 1e-2 < 0, "one way out is the steepest"
    assert between_classes(vectors[:, 0], hidden) > 0.9
    assert between_classes(vectors[:, 0], shortcut) < 1e-10


@pytest.mark.parametrize(
    ("tau", "values"),
    [
        (0.5, {2: -1.176, 8: -1.756, 32: -1.938, 128: -1.984}),
        (0.1, {2: -2.057, 8: -5.564, 32: -8.502, 128: -9.611}),
    ],
)
def test_optimal_values(tau, values):
    for dim, value in values.items():
        assert optimal_value(dim, tau) == pytest.approx(value, abs=5e-4)
    # on S², E exp(z·u/τ) = τ·sinh(1/τ)
    assert optimal_value(3, tau) == pytest.approx(math.log(tau * math.sinh(1 / tau)) - 1 / tau, rel=1e-12)
    # the limit, and the order of the gap
    gap = optimal_value(5_000, tau) + 1 / tau
    assert gap == pytest.approx(1 / (2 * 5_000 * tau**2), rel=0.05)


def test_the_table_of_optimal_values_is_computed():
    page = (Path(__file__).parents[3] / "docs/explanation/shortcuts.md").read_text("utf-8")
    (table,) = re.findall(r"\| τ \|.*\n(?:\|.*\n)+", page)
    header, _, *rows = [
        [cell.strip().replace("−", "-") for cell in line.strip("|").split("|")]
        for line in table.strip().split("\n")
    ]
    assert len(rows) == 4
    dims = [int(cell.removeprefix("d ")) for cell in header[1:-1]]
    for tau, *cells, limit in rows:
        assert cells == [f"{optimal_value(dim, float(tau)):.3f}" for dim in dims]
        assert limit == f"{-1 / float(tau):.3f}"


def test_the_optimal_value_is_that_of_uniform_points():
    random = np.random.default_rng(0)
    uniform = random.normal(size=(200_000, 8))
    uniform /= np.linalg.norm(uniform, axis=1, keepdims=True)
    values = np.exp(uniform[:, 0] / 0.5)
    # five standard errors of the mean
    error = 5 * values.std() / values.mean() / math.sqrt(len(values))
    assert math.log(values.mean()) == pytest.approx(optimal_value(8, 0.5) + 2, abs=error)


def test_bad_input(points):
    with pytest.raises(UsageError, match="no positive pair"):
        lim_nce(points, torch.zeros(N, N), TAU)
    with pytest.raises(UsageError, match="temperature -1"):
        optimal_value(3, -1)
