"""Compiled networks: used where they give the eager results, announced and left where they do not."""

import dataclasses

import numpy as np
import pytest
import torch

from viewgen.networks.acceleration import MAX_SIZES, Recording, accelerated, cuda_graphs, replaying
from viewgen.networks.execution import Execution
from viewgen.networks.files import Models
from viewgen.networks.precision import at_precision
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import Batch, Step, offline_step
from viewgen.views.wsearch.settings import WSearchConfig

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Noting:
    """A compiler that compiles nothing, but notes the sizes it was asked for, and how often each ran."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int, ...], int] = {}

    def __call__(self, function, sample):
        assert sample.requires_grad
        assert sample.is_leaf
        size = tuple(sample.shape)
        assert size not in self.calls
        self.calls[size] = 0

        def compiled(x):
            assert tuple(x.shape) == size
            self.calls[size] += 1
            return function(x)

        return compiled


def failing(function, sample):
    raise RuntimeError("operation not permitted when stream is capturing\nand a second line")


def failing_when_run(function, sample):
    def compiled(x):
        raise RuntimeError("no such kernel")

    return compiled


def scaled(function, sample):
    return lambda x: 1.2 * function(x)


def of_wrong_gradient(function, sample):
    return lambda x: function(x.detach()) + 0 * function(x)


def not_finite(function, sample):
    return lambda x: function(x) * torch.nan


def forgetful(function, sample):
    """A graph whose result is not copied away before the next replay."""
    buffer = []

    def compiled(x):
        value = function(x)
        buffer[:] = buffer or [value.detach().clone()]
        return value + (buffer[0] - value).detach()

    return compiled


def once(function, sample):
    """Gradients that are right only the first time after a forward pass."""
    calls = [0]

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            calls[0] = 0
            with torch.enable_grad():
                ctx.leaf = x.detach().requires_grad_()
                ctx.value = function(ctx.leaf)
            return ctx.value.detach()

        @staticmethod
        def backward(ctx, gradient):
            calls[0] += 1
            return calls[0] * torch.autograd.grad(ctx.value, ctx.leaf, gradient, retain_graph=True)[0]

    return Once.apply


@pytest.fixture
def notes() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def codes(image_batch: Batch) -> torch.Tensor:
    return torch.from_numpy(image_batch["anchor_w_plus"])


def value_and_gradient(network, w):
    w = w.clone().requires_grad_()
    image = network.decode(w)
    return image, torch.autograd.grad(image.square().sum(), w)[0]


def test_each_size_is_compiled_once_and_gives_the_eager_result(small_models, codes, notes):
    compiler = Noting()
    fast = accelerated(small_models.generator, compiler, lambda *note: notes.append(note))
    for size in (12, 5, 12, 5):
        for found, expected in zip(
            value_and_gradient(fast, codes[:size]),
            value_and_gradient(small_models.generator, codes[:size]),
            strict=True,
        ):
            assert torch.equal(found, expected)
    # two calls of the check, then the two above
    assert compiler.calls == {(12, 4, 32): 4, (5, 4, 32): 4}
    assert notes == []
    assert fast.config is small_models.generator.config
    assert "decode" not in vars(small_models.generator)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (failing, "RuntimeError: operation not permitted when stream is capturing"),
        (failing_when_run, "no such kernel"),
        (scaled, "results differ by 0.2 "),
        (of_wrong_gradient, "results differ by 1 "),
        (not_finite, "results differ by inf"),
        (forgetful, "results differ by"),
        (once, "results differ by 1 "),
    ],
)
def test_what_fails_or_differs_runs_eagerly_and_is_announced_once(
    small_models, codes, notes, compiler, reason
):
    fast = accelerated(small_models.generator, compiler, lambda *note: notes.append(note))
    for _ in range(3):
        for found, expected in zip(
            value_and_gradient(fast, codes), value_and_gradient(small_models.generator, codes), strict=True
        ):
            assert torch.equal(found, expected)
    ((topic, text),) = notes
    assert topic == "acceleration"
    assert reason in text
    assert "the generator runs eagerly on 12 at once" in text
    assert "\n" not in text


class Eager:
    """Stands for a graph: runs a function when it is replayed."""

    def __init__(self, function) -> None:
        self.replay = function


def recorded(function, sample):
    """A recording as CUDA graphs make it, whose graphs compute anew."""
    x = sample.detach().clone().requires_grad_()
    latest = [function(x)]
    y, gradient_y, gradient_x = latest[0].detach().clone(), torch.empty_like(latest[0]), torch.empty_like(x)

    def forward():
        with torch.enable_grad():
            latest[0] = function(x)
        y.copy_(latest[0].detach())

    def backward():
        gradient_x.copy_(torch.autograd.grad(latest[0], x, gradient_y, retain_graph=True)[0])

    return replaying(
        Recording(
            x=x,
            y=y,
            gradient_y=gradient_y,
            gradient_x=gradient_x,
            forward=Eager(forward),
            backward=Eager(backward),
        )
    )


def test_a_recording_replays_values_and_any_number_of_gradients(small_models, codes, notes):
    fast = accelerated(small_models.generator, recorded, lambda *note: notes.append(note))
    parts = (codes, codes.flip(0), 2 * codes)
    found = [value_and_gradient(fast, part) for part in parts]
    expected = [value_and_gradient(small_models.generator, part) for part in parts]
    for pair, other in zip(found, expected, strict=True):
        assert torch.equal(pair[0], other[0])
        assert torch.equal(pair[1], other[1])
    w = codes.clone().requires_grad_()
    image = fast.decode(w)
    first, second = (torch.autograd.grad(image.sum(), w, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert notes == []


def test_a_gradient_of_an_overwritten_forward_pass_is_refused(small_models, codes):
    fast = accelerated(small_models.generator, recorded, lambda *_: None)
    w = codes.clone().requires_grad_()
    image = fast.decode(w)
    fast.decode(w)
    with pytest.raises(RuntimeError, match="after another forward pass"):
        torch.autograd.grad(image.sum(), w)


def test_a_first_batch_without_gradients_or_with_poison_is_compiled_all_the_same(small_models, codes, notes):
    compiler = Noting()
    fast = accelerated(small_models.generator, compiler, lambda *note: notes.append(note))
    poisoned = codes.clone()
    poisoned[3, 1, 2] = torch.nan
    with torch.no_grad():
        image = fast.decode(poisoned)
    assert torch.isfinite(image).flatten(1).all(dim=1).tolist() == [row != 3 for row in range(12)]
    assert notes == []
    assert compiler.calls == {(12, 4, 32): 3}


def test_further_sizes_run_eagerly(small_models, codes):
    compiler = Noting()
    fast = accelerated(small_models.encoder, compiler, lambda *_: None)
    for size in range(1, MAX_SIZES + 3):
        fast(torch.zeros(size, 3, 8, 8))
    assert len(compiler.calls) == MAX_SIZES


def test_labels_are_not_compiled(small_models):
    inverter, seen = small_models.inverter, Noting()
    images, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    fast = accelerated(inverter, seen, lambda *_: None)
    assert torch.equal(fast(images, labels), inverter(images, labels))
    assert seen.calls == {}
    assert torch.equal(fast(images, None), inverter(images))
    assert len(seen.calls) == 1


def test_other_networks_come_back_as_they_are(small_models):
    assert accelerated(small_models.discriminator, failing, lambda *_: None) is small_models.discriminator


@pytest.mark.parametrize("compiler", [recorded, failing, scaled])
@pytest.mark.parametrize(
    ("precision", "solver"), [("float32", "newton"), ("float32", "boundary"), ("bfloat16", "adam")]
)
def test_a_search_gives_the_same_bits_compiled_or_not(
    small_models, image_batch, notes, precision, solver, compiler
):
    config = WSearchConfig(max_steps=4, precision=precision, solver=solver)

    def search(models: Models) -> Step:
        resources = Resources(models=models)
        source = VIEWS.entry("wsearch").build(config, resources)
        return offline_step(source, resources, seed=0, num_views=3)

    expected = search(small_models)(image_batch)
    execution = Execution(compiler=compiler, announce=lambda *note: notes.append(note))
    step = search(dataclasses.replace(small_models, execution=execution))
    for _ in range(2):
        found = step(image_batch)
        assert all(np.array_equal(found[name], expected[name], equal_nan=True) for name in expected)
    # not at every step: once for each network, at groups of 30 views and at 32 images at once
    networks = 2 if precision == "float32" else 4
    assert len(notes) <= 2 * networks
    assert bool(notes) == (compiler is not recorded)


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_torch_compile_can_be_the_compiler(small_models, codes, notes):
    """Only that the two fit together; the backend compiles nothing."""
    compiler = lambda function, sample: torch.compile(function, backend="eager")  # noqa: E731
    fast = accelerated(small_models.generator, compiler, lambda *note: notes.append(note))
    for found, expected in zip(
        value_and_gradient(fast, codes), value_and_gradient(small_models.generator, codes), strict=True
    ):
        torch.testing.assert_close(found, expected)
    assert notes == []


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_graphs_give_the_bits_of_eager_kernels(small_models: Models, codes, notes, precision):
    import copy

    generator = at_precision(copy.deepcopy(small_models.generator).cuda(), precision)
    fast = accelerated(generator, cuda_graphs, lambda *note: notes.append(note))
    for part in (codes.cuda(), 2 * codes.cuda(), codes.cuda()):
        for found, expected in zip(
            value_and_gradient(fast, part), value_and_gradient(generator, part), strict=True
        ):
            assert torch.equal(found, expected)
    assert notes == []


def test_cuda_graphs_without_a_gpu_fall_back(small_models, codes, notes):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    fast = accelerated(small_models.generator, cuda_graphs, lambda *note: notes.append(note))
    assert torch.equal(fast.decode(codes), small_models.generator.decode(codes))
    assert len(notes) == 1
