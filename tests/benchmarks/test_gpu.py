"""The script for GPUs, on a processor: it measures what it says."""

import gpu
import pytest
import torch


@pytest.fixture
def clock():
    return gpu.Clock(5, torch.device("cpu"))


def test_a_search_is_measured_with_either_solver_and_precision(clock):
    found = gpu.search(clock, gpu.narrow_models(), num_images=2, updates=1)
    assert [(one["solver"], one["precision"], one["cuda_graphs"]) for one in found] == [
        (solver, precision, False) for solver in ("newton", "adam") for precision in ("float32", "bfloat16")
    ]
    assert all(0 < one["updates"] <= 1 for one in found)
    assert all(one["view_updates_per_second"] > 0 for one in found)


def test_a_training_is_measured_compiled_and_not(clock, monkeypatch):
    graphs = []

    def backend(graph, _inputs):  # inductor takes a minute
        graphs.append(graph)
        return graph.forward

    def compile_quickly(module):
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    monkeypatch.setattr(gpu, "product_speed", lambda *_: 1e12)
    counts = []
    monkeypatch.setattr(gpu.click, "echo", lambda _: counts.append(len(graphs)))
    found = gpu.train(clock, (4,), width=2, repeats=1)
    assert [one["compiled"] for one in found] == [False, True] * 4
    assert counts[0] == 0
    assert counts[1] > 0  # what is called compiled was
    assert all(one["images_per_second"] > 0 for one in found)
    simclr, a2 = found[0], found[4]
    assert (simclr["assimilation"], a2["assimilation"]) == ("none", "A2")
    # three views instead of two: as many more operations, at another speed
    flops = [one["share_of_matrix_product"] / one["images_per_second"] for one in (simclr, a2)]
    assert flops[1] / flops[0] == pytest.approx(1.5, rel=0.1)


def test_no_part_begins_after_the_end():
    clock = gpu.Clock(0, torch.device("cpu"))
    assert gpu.search(clock, gpu.narrow_models(), 2, 1) == []
    assert gpu.train(clock, (4,), 2, 1) == []
