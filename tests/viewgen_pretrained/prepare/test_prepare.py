"""`viewgen prepare` with tiny networks: all stages, their resumption, gates, and the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from viewgen.cli import main
from viewgen.config_file import read_config
from viewgen.errors import CacheMismatchError
from viewgen.networks.files import file_digest
from viewgen.store import CacheReader
from viewgen_pipelines.shards.worker import ShardWorker
from viewgen_pretrained.generator import GeneratorTrainer
from viewgen_pretrained.prepare import command, prepare
from viewgen_pretrained.prepare.command import GateError, default_out

TINY: dict[str, Any] = {
    "encoder.width": 4, "encoder.projection_dim": 8, "encoder.batch_size": 8, "encoder.num_steps": 3,
    "generator.channels": [6, 4], "generator.num_mapping_layers": 2, "generator.batch_size": 4,
    "generator.num_images": 12, "inverter.channels": [6, 4], "inverter.hidden_dim": 16,
    "inverter.batch_size": 4, "inverter.num_steps": 3, "cache.views": 2, "cache.settings.max_steps": 2,
    "cache.invert.max_steps": 2, "gates.stop": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of 10 px or more in two classes."""
    folder = tmp_path_factory.mktemp("photos") / "beach"
    random = np.random.default_rng(1)
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, 128, (10 + index % 3, 12, 3)) + 127 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def run(photos: Path, root: Path, out: Path, *, chosen: Any = TINY, **options: Any) -> command.Prepared:
    """Prepare with tiny networks; without `chosen` by the file in the folder."""
    settings = chosen | options.pop("settings", {})
    return prepare(
        f"folder:{photos}",
        out=out,
        data_root=str(root),
        device="cpu",
        quality=False,
        estimate=False,
        settings=settings,
        **options,
    )


@pytest.fixture(scope="module")
def prepared(photos: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> command.Prepared:
    return run(photos, root, tmp_path_factory.mktemp("prepared") / "run")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}


def test_all_stages_end_in_a_cache(prepared, photos):
    assert prepared.dataset == f"folder:{photos}?size=8"
    reader = CacheReader(prepared.cache)
    assert (reader.spec.num_images, reader.spec.num_views) == (20, 2)
    assert reader.spec.config["epsilon_boundary"] == prepared.epsilon_boundary
    assert prepared.measured.keys() == {"encoder", "epsilon", "generator", "inverter"}
    assert {gate.stage for gate in prepared.gates} == prepared.measured.keys()
    assert [stage.name for stage in prepared.stages] == [
        "encoder", "epsilon", "generator", "inverter", "cache",
    ]  # fmt: skip
    assert digests(Path(prepared.out)).keys() == {
        f"{kind}.safetensors" for kind in ("encoder", "generator", "discriminator", "inverter")
    }
    kept = read_config(prepared.config, "the file")
    assert kept == prepared.plan
    assert (kept["encoder.num_steps"], kept["gates.stop"]) == (3, False)
    assert json.loads(json.dumps(prepared.to_json()))["cache"] == prepared.cache


def test_the_same_call_keeps_what_is_finished(prepared, photos, root, monkeypatch):
    before = digests(Path(prepared.out))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished stage was made again")

    for name in ("pretrain_encoder", "pretrain_generator", "pretrain_inverter", "calibrate"):
        monkeypatch.setattr(f"viewgen_pretrained.prepare.stages.{name}", never)
    # the file in the folder stands in for the choices
    again = run(photos, root, Path(prepared.out), chosen={})
    assert again.plan == prepared.plan
    assert again.measured == prepared.measured
    assert (again.cache, digests(Path(again.out))) == (prepared.cache, before)


def test_a_stop_inside_a_training_and_inside_the_cache_goes_on_from_there(
    prepared, photos, root, tmp_path, monkeypatch
):
    """Of the networks and of the views the same bits come out as of a run that nothing stopped."""
    step, steps = GeneratorTrainer.step, []

    def stopped(trainer: GeneratorTrainer, number: int) -> Any:
        steps.append(number)
        if steps == [0, 1]:
            raise KeyboardInterrupt
        return step(trainer, number)

    monkeypatch.setattr(GeneratorTrainer, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(photos, root, tmp_path / "run")
    assert sorted(digests(tmp_path / "run")) == ["encoder.safetensors"]

    work, shards = ShardWorker.run, []

    def cut_off(worker: ShardWorker, *given: Any) -> Any:
        shards.append(given)
        if len(shards) == 2:
            raise KeyboardInterrupt
        return work(worker, *given)

    monkeypatch.setattr(ShardWorker, "run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(photos, root, tmp_path / "run")
    assert digests(tmp_path / "run") == digests(Path(prepared.out))
    assert len(shards) == 2
    again = run(photos, root, tmp_path / "run")
    views = [CacheReader(one.cache) for one in (prepared, again)]
    first, second = (reader.views(reader.rows) for reader in views)
    np.testing.assert_array_equal(first, second)


def test_a_lost_network_is_made_again_and_another_plan_is_refused(prepared, photos, root):
    out = Path(prepared.out)
    before = digests(out)
    (out / "inverter.safetensors").unlink()
    run(photos, root, out)
    assert digests(out) == before
    with pytest.raises(CacheMismatchError, match="inverter training"):
        run(photos, root, out, settings={"inverter.num_steps": 4})
    assert digests(out) == before
    run(photos, root, out, settings={"inverter.num_steps": 4}, overwrite=True)
    after = digests(out)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["inverter.safetensors"]


def test_overwriting_keeps_a_cache_of_the_same_plan(prepared, photos, root):
    out = Path(prepared.out)

    def commits() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (out / "views.zarr" / "commits").iterdir()}

    before = commits()
    assert before
    run(photos, root, out, chosen={}, overwrite=True)
    assert commits() == before


def test_a_plan_is_for_its_images_under_any_name(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("small.npz", train_images=random.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    name = f"npz:{tmp_path}/small.npz"
    out = tmp_path / "run"
    out.mkdir()
    (out / "prepare.toml").write_text(f'dataset = "{name}"\n')
    options = {"out": out, "data_root": str(root), "device": "cpu", "estimate": False, "dry_run": True}
    assert prepare("npz:small.npz", **options).dataset == name
    (out / "prepare.toml").write_text('dataset = "npz:elsewhere.npz"\n')
    with pytest.raises(CacheMismatchError, match=f"the plan has npz:elsewhere.npz.*{name}"):
        prepare("npz:small.npz", **options)


def test_a_gate_that_is_not_passed_stops_and_the_command_goes_on_from_there(photos, root, tmp_path):
    strict = {"gates.stop": True, "gates.spread": 2.0}
    with pytest.raises(GateError, match=r"epsilon is not good enough.*\n.*at least 2 needed"):
        run(photos, root, tmp_path, settings=strict)
    assert digests(tmp_path).keys() == {"encoder.safetensors"}
    assert not (tmp_path / "views.zarr").exists()
    with pytest.raises(GateError):
        run(photos, root, tmp_path, chosen={})


def test_a_folder_of_other_images_is_refused(prepared, root, tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "x" / "0.png")
    with pytest.raises(CacheMismatchError, match="the plan is for another data set"):
        run(tmp_path, root, Path(prepared.out))


def call(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["prepare", *words])
    return int(end.value.code or 0), *capsys.readouterr()


def words(photos: Path, root: Path, out: Path) -> list[str]:
    chosen = [f"--set={name}={json.dumps(value)}" for name, value in TINY.items()]
    place = ["--dataset", f"folder:{photos}", "--data-root", str(root), "--out", str(out)]
    return [*place, "--device", "cpu", *chosen]


def test_a_dry_run_prints_data_plan_and_cost_and_writes_nothing(photos, root, tmp_path, capsys):
    code, out, err = call(
        *words(photos, root, tmp_path / "run"), "--dry-run", "--json", "--estimate", capsys=capsys
    )
    assert code == 0
    document = json.loads(out)
    assert document["report"]["num_images"] == 20
    assert [stage["seconds"] is None for stage in document["stages"]] == [False, True, False, False, False]
    assert (document["cache"], document["config"]) == (None, None)
    assert "20 images of 8 px, colour, from files whose shorter side has 10 to 12 px" in err
    assert "pictures are scaled and cropped to 8 px" in err
    assert "plan (small;" in err
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_it_begins_only_when_told(photos, root, tmp_path, capsys):
    code, _, err = call(*words(photos, root, tmp_path / "run"), capsys=capsys)
    assert code == 2
    assert "--yes" in err
    assert not (tmp_path / "run").exists()


def test_it_ends_with_a_verdict_which_strict_turns_into_exit_code_1(
    prepared, photos, root, capsys, monkeypatch
):
    monkeypatch.setattr("viewgen_pipelines.quality.verdict", lambda measures: ["they are drawn by hand"])
    again = [*words(photos, root, Path(prepared.out)), "--overwrite", "--yes", "--quality"]
    code, _, err = call(*again, capsys=capsys)
    assert code == 0
    assert "these views cannot be trusted: they are drawn by hand" in err
    assert call(*again, "--strict", capsys=capsys)[0] == 1


def test_the_run_folder_is_named_after_the_data(tmp_path, monkeypatch):
    (tmp_path / "photos" / "code").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos" / "code")
    assert default_out("folder:..") == Path("runs/photos")
    assert default_out("folder:.?size=8") == Path("runs/code")
    assert default_out("folder:/data/my photos?size=32") == Path("runs/my-photos")
    assert default_out("cifar10") == Path("runs/cifar10")
