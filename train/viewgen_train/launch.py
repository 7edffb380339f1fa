"""Launcher of one training on several processes with Ray Train: one worker per GPU, or CPU workers.

The workers form a torch.distributed process group, which a training reads from `World.current()`. The output
of rank 0, progress bar included, is copied to the launching process. The training resumes only from its own
checkpoints: if a worker dies, the whole group restarts from the last checkpoint.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from viewgen.errors import UsageError, ViewgenError
from viewgen.extras import need
from viewgen.files import write_atomically
from viewgen.terminal import Escaped, unescaped

__all__ = ["distribute"]

log = logging.getLogger(__name__)
SCRATCH = ".ray-train"
POLL_SECONDS = 0.2
# must be set before Ray Train is imported
_ENVIRONMENT = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}


def distribute(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    num_workers: int,
    folder: str | Path,
    use_gpu: bool = False,
    address: str | None = None,
    max_restarts: int = 3,
) -> Any:
    """Call a function on several workers that form a process group.

    Args:
        function: module-level training function that resumes if called again.
        arguments: keyword arguments of the function; must be picklable.
        num_workers: number of processes; their ranks are 0 to num_workers − 1.
        folder: folder of the run. Workers on other machines must see it under the same path.
        use_gpu: True if each worker gets its own GPU (NCCL); otherwise workers share the CPU (gloo).
        address: address of a running Ray cluster; None starts Ray on this machine.
        max_restarts: maximum number of restarts after the death of a worker.

    Returns:
        return value of rank 0, as JSON values.

    Raises:
        UsageError: there are fewer GPUs, or cluster cores, than workers.
        ViewgenError: a worker raised an error or died more than `max_restarts` times, or Ray failed.
    """
    need("ray", "train in one process, without --gpus and --workers")
    from viewgen_pipelines.executors.session import ray_session

    if num_workers < 1:
        raise UsageError(f"{num_workers} workers were asked for; expected at least 1")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    scratch = Path(folder).expanduser().absolute() / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with ray_session(address, num_workers=num_workers) as session:
            there = session.num_gpus if use_gpu else session.num_cores
            # Ray would wait for more; a session of our own admits any number of processes
            if there < num_workers and (use_gpu or not session.own):
                kind = "GPUs" if use_gpu else "processor cores"
                raise UsageError(
                    f"{num_workers} workers were asked for, but Ray sees {there:g} {kind}; ask for fewer"
                )
            # of a cluster's cores, Ray reserves one for a worker
            threads = max(1, int(session.num_cores) // num_workers) if session.own else 1
            task = {
                "function": function,
                "arguments": dict(arguments),
                "scratch": str(scratch),
                "cwd": os.getcwd(),
                "num_threads": None if use_gpu else threads,
                "terminal": sys.stderr.isatty(),
                "columns": shutil.get_terminal_size().columns,
            }
            with _shown(scratch / "output"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray's about itself
                _run(task, num_workers, use_gpu, max_restarts)
            return json.loads((scratch / "result.json").read_text())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(task: dict[str, Any], num_workers: int, use_gpu: bool, max_restarts: int) -> None:
    """Run the workers to completion; restart them if one dies."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    for attempt in range(max_restarts + 1):
        trainer = TorchTrainer(
            _work,
            train_loop_config=task,
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RunConfig(name=f"attempt-{attempt}", storage_path=task["scratch"]),
        )
        try:
            trainer.fit()
            return
        except WorkerGroupError as error:
            _raise_what_was_raised(error.worker_failures)
            if attempt == max_restarts:
                raise ViewgenError(
                    f"a worker died {attempt + 1} times (out of memory, or killed?); run the same command "
                    "again to go on from the last checkpoint"
                ) from error
            log.warning(
                "a worker died; starting all again from the last checkpoint (%d of %d restarts)",
                *(attempt + 1, max_restarts),
            )
        except TrainingFailedError as error:
            reason = str(getattr(error, "controller_failure", error)).strip().splitlines()
            raise ViewgenError(f"Ray Train failed: {reason[-1] if reason else error!r}") from error


def _raise_what_was_raised(failures: Mapping[int, BaseException]) -> None:
    """Raise the error that the function raised; return if a worker died instead.

    Args:
        failures: rank → exception of the function, or a Ray exception for a dead worker.
    """
    # others that lost the connection to a rank that died or raised tell nothing new
    for failure in failures.values():
        if isinstance(failure, ViewgenError):
            raise failure from None
    if any(type(failure).__module__.partition(".")[0] == "ray" for failure in failures.values()):
        return
    lines = [f"rank {rank}: {type(failure).__name__}: {failure}" for rank, failure in failures.items()]
    raise ViewgenError("a worker failed; " + "; ".join(lines)) from next(iter(failures.values()))


def _work(task: dict[str, Any]) -> None:
    """Call the function in a worker process; rank 0 writes its result."""
    import torch
    import torch.distributed as dist

    from viewgen.memory import keep_freed_memory

    keep_freed_memory()
    with contextlib.suppress(OSError):
        os.chdir(task["cwd"])  # Ray Train works in a folder of its own
    if task["num_threads"] is not None:
        torch.set_num_threads(task["num_threads"])
    scratch = Path(task["scratch"])
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    os.environ["COLUMNS"] = str(task["columns"])
    with _Output(scratch / "output", task["terminal"]) if is_main else contextlib.nullcontext():
        result = task["function"](**task["arguments"])
    if is_main:
        write_atomically(scratch / "result.json", json.dumps(result).encode())


class _Output(io.TextIOBase):
    """Standard error of rank 0; the launching process copies it to its own."""

    def __init__(self, path: Path, terminal: bool) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._terminal = terminal

    def write(self, text: str) -> int:
        self._file.write(text.encode())
        return len(text)

    def isatty(self) -> bool:
        return self._terminal

    def writable(self) -> bool:
        return True

    def __enter__(self) -> "_Output":
        self._redirection = contextlib.redirect_stderr(cast(TextIO, Escaped(cast(TextIO, self))))
        self._redirection.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._redirection.__exit__(*failure)
        self._file.close()


@contextlib.contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Copy text appended to a file to standard error."""
    over = threading.Event()

    def copy() -> None:
        position = 0
        ended = False
        while not ended:
            # once more after the end, for the last words
            ended = over.wait(POLL_SECONDS)
            if path.exists():
                with open(path, "rb") as file:
                    file.seek(position)
                    text = file.read()
                position += len(text)
                # the worker has escaped it, all but its progress bar
                unescaped(sys.stderr).write(text.decode(errors="replace"))
                sys.stderr.flush()

    thread = threading.Thread(target=copy, name="output of rank 0")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
