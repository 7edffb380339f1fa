"""Metrics go where the user wants them, and on from where they were."""

import json

import pytest

from viewgen.cli import main
from viewgen.errors import MissingExtraError, UsageError
from viewgen_train.curves import read_series
from viewgen_train.loggers import chosen_loggers, open_logger
from viewgen_train.training import train

SETTINGS = {"generated": "expert", "width": 2, "projection_dim": 4, "batch_size": 32, "epochs": 2}
OPTIONS = {"settings": SETTINGS, "limit": 64, "evaluate": False, "quiet": True}


def two_parts(name, folder):
    """Log three values, the last of which after a resumption."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": {"width": 2, "optimiser": {"name": "sgd"}}}))
    for first_step, steps in ((0, (1, 2)), (2, (3,))):
        logger = open_logger(name, folder, first_step)
        for step in steps:
            logger.log(step, {"loss": float(step), "knn5_top1[a b%]": 0.5})
        logger.flush()
        logger.close()


def test_tensorboard_has_what_the_table_has(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("digits", out=str(tmp_path / "run"), loggers=["csv", "tensorboard"], **OPTIONS)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    steps, values = read_series(tmp_path / "run/metrics.csv")["loss"]
    found = events.Scalars("loss")
    assert [event.step for event in found] == steps.tolist()
    assert [event.value for event in found] == pytest.approx(values.tolist(), rel=1e-5)
    train("digits", out=str(tmp_path / "plain"), loggers=["csv"], **OPTIONS)
    assert not (tmp_path / "plain/tensorboard").exists()
    assert (tmp_path / "plain/metrics.csv").read_text() == (tmp_path / "run/metrics.csv").read_text()


def test_mlflow_keeps_one_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    two_parts("mlflow", tmp_path / "run")
    client = MlflowClient(tracking_uri=(tmp_path / "run/mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("viewgen").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1), (2, 2), (3, 3)]
    assert client.get_metric_history(run.info.run_id, "knn5_top1/a b_"), "no brackets there"
    assert run.data.params == {"width": "2", "optimiser.name": "sgd"}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    two_parts("wandb", tmp_path / "run")
    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    name = (tmp_path / "run/wandb/viewgen-run").read_text()
    assert folders
    assert all(folder.name.endswith(name) for folder in folders), "one run of theirs"
    assert all(list(folder.glob("*.wandb")) for folder in folders)


def test_loggers_are_checked_before_anything_starts(tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match="logger is 'tensorbord'; did you mean 'tensorboard'"):
        chosen_loggers(["tensorbord"])
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewgen\[wandb\]'"):
        train("digits", out=str(tmp_path / "run"), loggers=["wandb"], **OPTIONS)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as ending:
        main(["train", "--dataset", "digits", "--logger", "csv,mlflow", "--out", str(tmp_path / "run")])
    assert ending.value.code == 1
    assert "viewgen train needs MLflow: pip install 'viewgen[mlflow]'" in capsys.readouterr().err
