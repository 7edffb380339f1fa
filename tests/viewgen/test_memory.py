"""How many images fit: arithmetic, the account of a container, and runs that go short of memory."""

import dataclasses
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from viewgen.errors import OutOfMemoryError
from viewgen.inversion.settings import InvertConfig
from viewgen.memory import (
    MARGIN,
    CudaMemory,
    ProcessMemory,
    SlotRunner,
    available_bytes,
    fitting_slots,
    total_bytes,
)
from viewgen.networks.execution import Execution
from viewgen.networks.files import Models
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import Step, offline_step
from viewgen.views.wsearch.settings import WSearchConfig

MIB = 2**20


class FakeMemory:
    """A device on which a trial takes `fixed` bytes and `per_image` for each of its images."""

    def __init__(self, free: int, fixed: int = 0, per_image: int = 0) -> None:
        self.free, self.fixed, self.per_image = free, fixed, per_image
        self.trials: list[int] = []

    def available(self) -> int:
        return self.free

    def start(self) -> None:
        assert self.trials == []

    def peak(self) -> int:
        return self.fixed + self.per_image * max(self.trials)


def make_runner(batch_size, memory=None, group_size=4, slot_bytes=1):
    notes: list[tuple[str, str]] = []
    runner = SlotRunner(
        batch_size,
        group_size=group_size,
        slot_bytes=slot_bytes,
        probe=memory,
        announce=lambda *note: notes.append(note),
    )
    return runner, notes


def never(_):
    raise AssertionError("there was nothing to measure")


@given(
    one=st.integers(0, 10**6),
    growth=st.integers(-100, 10**5),
    group_size=st.integers(1, 32),
    slot_bytes=st.integers(1, 1000),
    available=st.integers(0, 10**8),
)
def test_slots_stay_within_the_margin(one, growth, group_size, slot_bytes, available):
    chosen = fitting_slots(
        one, one + growth, group_size=group_size, slot_bytes=slot_bytes, available=available
    )
    groups, rest = divmod(chosen, group_size)
    assert rest == 0
    assert groups >= 1
    each = max(growth, group_size * slot_bytes)
    if groups > 1:
        assert one + (groups - 1) * each <= MARGIN * available
    assert one + groups * each > int(MARGIN * available)  # one more would not fit


@pytest.mark.parametrize(("batch_size", "slots"), [(None, 4), (1, 4), (4, 4), (5, 8), (40, 40)])
def test_a_number_is_taken_in_whole_groups_and_not_measured(batch_size, slots):
    runner, notes = make_runner(batch_size)
    assert runner.run(lambda num_slots: num_slots, never, 100) == slots
    assert notes == []


@pytest.mark.parametrize(
    ("free", "num_images", "slots"),
    # a group of 4 takes 1000 + 400 bytes, every further one 400; 80 % are used
    [(10**6, 30, 32), (10**6, 3, 4), (2750, 30, 12), (2749, 30, 8), (1750, 30, 4), (0, 30, 4)],
)
def test_auto_takes_what_fits_up_to_the_shard(free, num_images, slots):
    memory = FakeMemory(free, fixed=1000, per_image=100)
    runner, notes = make_runner("auto", memory)
    for _ in range(2):  # the second shard is not measured again
        assert runner.run(lambda num_slots: num_slots, memory.trials.append, num_images) == slots
    assert memory.trials == [4, 8]
    ((topic, text),) = notes
    assert topic == "batch size"
    assert ("all images of a shard" if slots >= num_images else f"auto: {slots} images") in text
    assert ("--workers" in text) == (MARGIN * free < 1400)


def test_a_slot_never_takes_less_than_its_state():
    memory = FakeMemory(10_000, fixed=100, per_image=0)
    runner, _ = make_runner("auto", memory, slot_bytes=500)
    assert runner.run(lambda num_slots: num_slots, memory.trials.append, 1000) == 4 * (1 + 7900 // 2000)


def fits(limit):
    """Return a search that fits with up to `limit` images at once, and the list of its calls."""
    calls = []

    def search(num_slots):
        calls.append(num_slots)
        if num_slots > limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {num_slots} GiB\nand more")
        return num_slots

    return search, calls


def test_out_of_memory_halves_the_slots_and_remembers_them():
    runner, notes = make_runner(44)
    search, calls = fits(limit=8)
    assert runner.run(search, never, 100) == 8
    assert calls == [44, 24, 12, 8]
    assert [topic for topic, _ in notes] == ["memory"] * 3
    assert notes[0][1] == "out of memory with 44 images at once; going on with 24"
    assert runner.run(search, never, 100) == 8
    assert calls == [44, 24, 12, 8, 8]


def test_a_group_that_does_not_fit_is_an_error_that_says_what_to_do():
    runner, _ = make_runner(8)
    with pytest.raises(
        OutOfMemoryError, match=r"one group of 4 images .*CUDA out of memory.*--workers"
    ) as caught:
        runner.run(fits(limit=3)[0], never, 100)
    assert isinstance(caught.value, MemoryError)
    assert "and more" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
)
def test_what_counts_as_out_of_memory(error):
    runner, _ = make_runner(8)
    raised = [error]

    def search(num_slots):
        if raised:
            raise raised.pop()
        return num_slots

    assert runner.run(search, never, 100) == 4


def test_other_errors_pass():
    def search(_):
        raise RuntimeError("shapes do not fit")

    for batch_size in (8, "auto"):
        runner, notes = make_runner(batch_size, FakeMemory(100))
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            runner.run(search, search, 100)
        assert notes == []


def test_a_trial_of_two_groups_that_does_not_fit_leaves_one():
    memory = FakeMemory(10**9)
    trial, _ = fits(limit=4)

    def noted(num_images):
        memory.trials.append(num_images)
        trial(num_images)

    runner, notes = make_runner("auto", memory)
    assert runner.run(lambda num_slots: num_slots, noted, 100) == 4
    assert "twice as many do not fit" in notes[0][1]
    runner, _ = make_runner("auto", FakeMemory(10**9))
    with pytest.raises(OutOfMemoryError, match="one group"):
        runner.run(never, fits(limit=3)[0], 100)


def make_step(models: Models, name: str, config: object, num_views: int, batch_size: object = None) -> Step:
    resources = Resources(models=models, batch_size=batch_size)
    source = VIEWS.entry(name).build(config, resources)
    return offline_step(source, resources, seed=0, num_views=num_views)


@pytest.mark.parametrize("name", ["wsearch", "invert"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_views_do_not_depend_on_what_fits(small_models, image_batch, name, precision):
    config = {"wsearch": WSearchConfig, "invert": InvertConfig}[name](max_steps=3, precision=precision)
    num_views = {"wsearch": 7, "invert": 1}[name]

    def step(batch_size, free=0):
        probe = FakeMemory(free)
        probe.trials.append(1)
        probe.start = lambda: None
        execution = Execution(probe=probe, announce=lambda *_: None)
        models = dataclasses.replace(small_models, execution=execution)
        return make_step(models, name, config, num_views, batch_size)(image_batch)

    fixed = step(None)
    for free in (0, 10**9):
        auto = step("auto", free)
        assert all(np.array_equal(auto[key], fixed[key], equal_nan=True) for key in fixed)


def test_a_search_that_runs_out_of_memory_gives_the_same_views(small_models, image_batch, monkeypatch):
    import viewgen.views.wsearch.source as module

    config, search = WSearchConfig(max_steps=3), module.search_views
    expected = make_step(small_models, "wsearch", config, 8)(image_batch)

    def short_of_memory(problem, num_slots, group_size):
        if num_slots > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(problem, num_slots, group_size)

    monkeypatch.setattr(module, "search_views", short_of_memory)
    notes: list[str] = []
    models = dataclasses.replace(
        small_models, execution=Execution(announce=lambda _, text: notes.append(text))
    )
    found = make_step(models, "wsearch", config, 8, batch_size=12)(image_batch)
    assert len(notes) == 2
    assert all(np.array_equal(found[key], expected[key], equal_nan=True) for key in expected)


def write(folder: Path, **files: object) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_free_memory_is_the_containers_if_that_is_less(tmp_path):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:  4000 kB\n")
    assert available_bytes(cgroup, meminfo) == 4000 * 1024
    write(cgroup, memory_dot_max="max", memory_dot_current=100)
    assert available_bytes(cgroup, meminfo) == 4000 * 1024
    write(cgroup, memory_dot_max=3_000_000, memory_dot_current=2_500_000)
    assert available_bytes(cgroup, meminfo) == 500_000
    # files in the page cache do not stand in the way
    write(cgroup, memory_dot_stat="anon 2000000\ninactive_file 400000\n")
    assert available_bytes(cgroup, meminfo) == 900_000
    write(cgroup, memory_dot_current=9_000_000)
    assert available_bytes(cgroup, meminfo) == 0


def test_free_memory_in_a_container_of_version_1(tmp_path):
    cgroup = tmp_path / "cgroup"
    files = {"memory__memory_dot_limit_in_bytes": 2_000_000, "memory__memory_dot_usage_in_bytes": 1_500_000}
    write(cgroup, **files, memory__memory_dot_stat="total_inactive_file 100000")
    assert available_bytes(cgroup, tmp_path / "no meminfo") == 600_000
    assert available_bytes(tmp_path / "none", tmp_path / "no meminfo") == 0


def test_a_container_has_the_memory_of_its_limit(tmp_path):
    machine = total_bytes(tmp_path / "none")
    assert machine > 2**27
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1000000\n")
        assert total_bytes(tmp_path) == 1_000_000
        (tmp_path / name).write_text("max\n")
        assert total_bytes(tmp_path) == machine


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_of_this_process_is_measured_and_shared():
    probe = ProcessMemory()
    probe.start()
    # not by malloc, which may still hold what other tests have freed
    with mmap.mmap(-1, 48 * MIB) as pages:
        pages[:: mmap.PAGESIZE] = bytes(48 * MIB // mmap.PAGESIZE)
    assert 40 * MIB < probe.peak() < 100 * MIB
    probe.start()
    assert probe.peak() < 24 * MIB
    whole = ProcessMemory().available()
    assert whole > 0
    assert ProcessMemory(share=0.25).available() == pytest.approx(whole / 4, rel=0.2)  # others take and free


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_peak_of_a_gpu_is_measured():
    probe = CudaMemory(torch.device("cuda"))
    probe.start()
    tensor = torch.ones(48 * MIB, dtype=torch.uint8, device="cuda")
    del tensor
    assert probe.peak() == pytest.approx(48 * MIB, rel=0.1)
    assert probe.available() > 0
