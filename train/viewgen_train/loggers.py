"""Loggers of a training's metrics besides ``metrics.csv``: TensorBoard, Weights & Biases, MLflow.

The services' own variables hold: ``WANDB_MODE=offline`` and ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI`` and
``MLFLOW_EXPERIMENT_NAME``. Without ``MLFLOW_TRACKING_URI`` MLflow writes into the run's folder. A training
that goes on continues the service's run, whose name is kept in the run's folder.
"""

import json
import logging
import os
import re
import secrets
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewgen.errors import UsageError, nearest_name
from viewgen.extras import installed, need
from viewgen.files import write_atomically
from viewgen_train.run import CONFIG

__all__ = ["FOLDERS", "LOGGERS", "Logger", "chosen_loggers", "open_logger"]

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
FOLDERS = (TENSORBOARD, "wandb", "mlflow")
"""What loggers write in a run's folder."""


class Logger(ABC):
    """Receiver of metrics.

    Args:
        folder: folder of the run.
        first_step: step from which it goes on.
    """

    @abstractmethod
    def __init__(self, folder: Path, first_step: int) -> None: ...

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars after a number of steps."""

    def flush(self) -> None:  # noqa: B027 most write at once
        """Write out what is held."""

    @abstractmethod
    def close(self) -> None:
        """End the logging, after success or failure."""


class TensorBoardLogger(Logger):
    """Event files in the folder ``tensorboard``."""

    def __init__(self, folder: Path, first_step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard's imports
            from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=first_step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(_tag(name), value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbLogger(Logger):
    """A run of Weights & Biases; steps that were logged before an interruption are logged once."""

    def __init__(self, folder: Path, first_step: int) -> None:
        import wandb

        place = folder / "wandb" / "viewgen-run"
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "viewgen"),
            name=folder.name,
            id=_kept(place, secrets.token_hex(8)),
            resume="allow",
            dir=str(folder),
            config=_config(folder),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowLogger(Logger):
    """A run of MLflow."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            # files of its own were put aside in favour of a data base, which its small package has not
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (folder / "mlflow").absolute().as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        place = folder / "mlflow" / "viewgen-run"
        if place.is_file():
            self._run_id = place.read_text("utf-8")
            self._client.update_run(self._run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "viewgen")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._run_id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in _flat(_config(folder)):
            self._client.log_param(self._run_id, key, str(value)[:500])
        _kept(place, self._run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run_id, _tag(name), float(value), step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


LOGGERS: dict[str, type[Logger] | None] = {
    "csv": None,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}
"""Name → logger; None for the table that every run has."""


def chosen_loggers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the loggers of a training besides the table, checked.

    Args:
        names: names of `LOGGERS`; None for TensorBoard, where it is installed.

    Raises:
        UsageError: there is no such logger.
        MissingExtraError: its packages are not installed.
    """
    if names is None:
        if installed("tensorboard"):
            return ("tensorboard",)
        log.warning("no TensorBoard events: pip install 'viewgen[tensorboard]' for them")
        return ()
    for name in names:
        if name not in LOGGERS:
            raise UsageError(
                f"logger is {name!r}{nearest_name(name, LOGGERS)}; expected some of {', '.join(LOGGERS)}"
            )
        if name != "csv":
            need(name)
    return tuple(name for name in dict.fromkeys(names) if name != "csv")


def open_logger(name: str, folder: Path, first_step: int) -> Logger:
    """Return a logger of a run, which goes on from `first_step`."""
    made = LOGGERS[name]
    assert made is not None
    return made(folder, first_step)


def _tag(name: str) -> str:
    """Return the name of a metric without brackets, which some services refuse: ``knn5_top1/digit``."""
    return re.sub(r"[^\w.:/ -]", "_", re.sub(r"\[(.*)\]$", r"/\1", name))


def _kept(place: Path, new: str) -> str:
    """Return the name of a service's run: the one that an earlier call kept, or a new one."""
    if not place.is_file():
        write_atomically(place, new.encode(), sole_writer=True)
    return place.read_text("utf-8")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    document = json.loads(path.read_bytes()) if path.is_file() else {}
    return dict(document.get("config", {}))


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted name and value of every leaf."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
