"""Two processes × B against one × 2B."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from viewgen.errors import UsageError
from viewgen_train.distributed import SynchronisedBatchNorm, World, synchronise_batchnorm

SCRIPT = Path(__file__).parent / "two_ranks.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), str(rank), str(folder)], stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """What one process finds, through torch's own batch normalisation and no wrapper."""
    specification = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.everything(World())


def named(tensors, names):
    """Return some tensors by name; a comparison that fails tells the name and the difference."""
    return {name: tensors[name] for name in names}


def test_the_processes_know_each_other(ranks):
    assert [found["rank"].tolist() for found in ranks] == [[0, 2], [1, 2]]
    assert [float(found["mean"]) for found in ranks] == [0.5, 0.5]


@pytest.mark.parametrize("what", ["loss", "gradient", "backbone", "projector"])
def test_training_is_that_of_one_process(ranks, alone, what):
    """Losses, gradients, weights and running statistics; float64, so only sums in another order differ."""
    names = [name for name in alone if name.startswith(what)]
    assert len(names) >= 3
    for found in ranks:
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("role", ["first", "rest"])
def test_encoders_of_two_roles_have_the_gradients_of_one_process(ranks, alone, role):
    """Float32, whose sums in another order differ in the last digits."""
    names = [name for name in alone if name.startswith(f"branched encoders.{role}.")]
    assert len(names) >= 60
    assert max(float(alone[name].abs().max()) for name in names) > 1e-3
    for found in ranks:
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["moco", "byol", "nnclr"])
def test_keys_queue_and_target_are_those_of_one_process(ranks, alone, name):
    """Batch statistics in groups too; float32, whose sums in another order differ in the last digits."""
    names = [key for key in alone if key.startswith(f"momentum {name} ") and "num_batches" not in key]
    assert len(names) >= 100
    for found in ranks:
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["barlow", "vicreg"])
def test_correlations_are_those_of_the_whole_batch(ranks, alone, name):
    """Float64, so only sums in another order differ."""
    for found in ranks:
        names = (f"correlated {name} loss", f"correlated {name} gradient")
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-9, atol=1e-12)


def test_patches_are_compared_over_the_whole_batch(ranks, alone):
    """Float64; the objective's own networks have the gradients of the whole batch on each rank."""
    names = [name for name in alone if name.startswith("patched ")]
    assert len(names) >= 12
    assert float(alone["patched gradient"].abs().max()) > 1e-4
    for found in ranks:
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("title", ["rebuilt", "rebuilt of roles"])
@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_a_reconstruction_is_that_of_one_process(ranks, alone, title, progress):
    """In the warm-up, on reconstruction alone, and after it; float32, as above."""
    names = [name for name in alone if name.startswith(f"{title} {progress} ")]
    for part in ("encoder.backbone" if title == "rebuilt" else "encoder.encoders.first.backbone", "decoder"):
        largest = [float(alone[name].abs().max()) for name in names if f" {part}." in name]
        assert len(largest) >= 14
        assert max(largest) > 1e-3
    for found in ranks:
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=1e-3, atol=1e-5)


def test_gradients_of_this_test_are_not_zero(alone):
    """Otherwise a gather without gradients would pass."""
    assert min(float(v.abs().max()) for name, v in alone.items() if name.startswith("gradient 0")) > 1e-6


@pytest.mark.parametrize("kind", ["flat", "image", "untracked", "apart"])
def test_layers_are_those_of_one_process(ranks, alone, kind):
    names = [name for name in alone if name.startswith(kind) and name != f"{kind} gradient"]
    assert names
    for found in ranks:
        # float32 at 100 ± 1: an ulp of the input is 1e-5 of its deviation
        torch.testing.assert_close(named(found, names), named(alone, names), rtol=2e-5, atol=1e-4)
    if kind != "apart":
        gradient = torch.cat([found[f"{kind} gradient"] for found in ranks])
        torch.testing.assert_close(gradient, alone[f"{kind} gradient"], rtol=1e-3, atol=1e-4)


def test_one_process_is_left_alone():
    world = World.current()
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    z = torch.ones(2, 2)
    assert world == World(0, 1)
    assert world.is_main
    assert world.gather(z) is z
    assert world.data_parallel(network) is network
    assert type(synchronise_batchnorm(network, world)[1]) is torch.nn.BatchNorm1d
    assert world.reduce_mean(0.25) == 0.25
    world.barrier()


def test_only_the_forward_of_batch_normalisation_is_replaced():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm1d(4))
    before = network.state_dict()
    synchronised = synchronise_batchnorm(network, World(0, 2))
    assert [type(layer) for layer in synchronised[1:]] == [SynchronisedBatchNorm] * 2
    assert all(
        value is before[name] or value.equal(before[name]) for name, value in network.state_dict().items()
    )
    # without a process group it is the plain layer
    x = torch.randn(6, 3, 2, 2)
    torch.testing.assert_close(
        synchronised[1](x[:, [0, 1, 2, 0]]), torch.nn.BatchNorm2d(4)(x[:, [0, 1, 2, 0]])
    )


def test_shares_are_consecutive_and_equal():
    rows = torch.arange(6)
    assert [World(rank, 3).share(rows).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UsageError, match="batch of 6 does not divide into equal parts for 4 workers"):
        World(0, 4).share(rows)
