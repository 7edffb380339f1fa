"""The environment check: every line in its three states, and the exit code."""

import dataclasses
import json
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from viewgen.cli import main
from viewgen.cli.doctor import OPTIONAL, Check, examine
from viewgen.extras import EXTRAS
from viewgen.inversion.perceptual import LPIPS_TRUNK
from viewgen.networks import weights

NAMES = [
    "python", "torch", "gpu", "torchvision", "ray", "zarr", "s3fs", "lpips", *OPTIONAL, "data root",
    "machine", "weights",
]  # fmt: skip


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", *words])
    return int(exit_.value.code or 0), capsys.readouterr().out


@pytest.fixture
def line(tmp_path: Path) -> Callable[[str], Check]:
    """Return the check of that name."""

    def find(name: str) -> Check:
        checks = examine(str(tmp_path / "data"))
        assert [check.name for check in checks] == NAMES
        return next(check for check in checks if check.name == name)

    return find


def test_every_extra_has_a_line_that_says_what_it_is_for(line, monkeypatch):
    assert set(OPTIONAL) | {"ray", "s3", "lpips"} == set(EXTRAS)
    assert "scikit-learn " in line("readouts").detail
    monkeypatch.setattr("viewgen.cli.doctor.installed", lambda extra: False)
    found = line("readouts")
    assert (found.level, found.detail) == ("warn", "not installed")
    expected = "for the gallery's map of views under f, and diagnostics of scikit-learn"
    assert found.advice == f"pip install 'viewgen[readouts]' {expected}"


@pytest.mark.parametrize(("native", "words"), [(True, "in hardware"), (False, "emulated (keep --precision")])
def test_torch_says_how_it_computes_in_bfloat16(line, monkeypatch, native, words):
    monkeypatch.setattr("viewgen.networks.precision.native_bfloat16", lambda: native)
    assert f"bfloat16 {words}" in line("torch").detail


def test_a_sound_environment(capsys, tmp_path):
    code, text = run("--json", "--data-root", str(tmp_path), capsys=capsys)
    document = json.loads(text)
    assert (code, document["ok"]) == (0, True), document
    assert [check["name"] for check in document["checks"]] == NAMES
    for check in document["checks"]:
        assert check["level"] in ("ok", "warn")
        assert check["detail"]
        assert bool(check["advice"]) == (check["level"] == "warn"), check
    levels = {check["name"]: check["level"] for check in document["checks"]}
    assert {levels[name] for name in ("python", "torch", "ray", "zarr", "weights")} == {"ok"}


@pytest.mark.parametrize(("declared", "level"), [(None, "ok"), (object(), "warn")])
def test_a_torchvision_that_only_viewgen_can_import_is_a_warning(line, monkeypatch, declared, level):
    monkeypatch.setattr("viewgen.networks.torchvision_import.import_torchvision", lambda name: None)
    monkeypatch.setattr("viewgen.networks.torchvision_import._declared", declared)
    check = line("torchvision")
    assert check.level == level
    if level == "warn":
        assert "a plain `import torchvision` fails" in check.detail
        assert "--index-url https://download.pytorch.org/whl/cpu torchvision==" in check.advice
        assert "+" not in check.advice


def test_the_report_has_a_line_per_check_and_advice_below(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("viewgen.cli.doctor.MIN_PYTHON", (9, 0))
    code, text = run("--data-root", str(tmp_path), capsys=capsys)
    assert code == 1
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["fail", "python"]
    assert lines[1].strip() == "→ viewgen needs Python 9.0 or later"
    assert sum(line.startswith(("ok", "warn", "fail")) for line in lines) == len(NAMES)


@pytest.mark.parametrize("package", ["zarr", "torchvision"])
def test_a_missing_package_that_is_needed_fails(line, monkeypatch, package):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    check = line(package)
    assert check.level == "fail"
    assert package in check.detail
    assert "install" in check.advice


@pytest.mark.parametrize(
    ("name", "module", "use"),
    [
        ("s3fs", "s3fs", "[s3]' to keep caches at s3:// URLs"),
        ("ray", "ray", "[ray]' for caches on many cores; without it use --executor local"),
    ],
)
def test_a_missing_extra_is_a_warning(line, monkeypatch, name, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    check = line(name)
    assert check.level == "warn"
    assert check.advice.startswith("pip install 'viewgen[")
    assert check.advice.endswith(use)


def test_a_data_root_that_cannot_be_written_fails(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    checks = {check.name: check for check in examine(str(blocker / "data"))}
    assert checks["data root"].level == "fail"
    assert str(blocker) in checks["data root"].detail
    assert "--data-root" in checks["data root"].advice


def test_little_disk_or_memory_is_a_warning(line, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("viewgen.cli.doctor.shutil.disk_usage", lambda path: usage(0, 0, 2**20))
    monkeypatch.setattr("viewgen.memory.total_bytes", lambda: 2 * 2**30)
    assert line("data root").level == "warn"
    assert line("machine").level == "warn"
    assert "2.0 GiB memory" in line("machine").detail


def test_graphics_processors_are_named_and_tried(line, monkeypatch):
    properties = SimpleNamespace(name="Accelerator X", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    check = line("gpu")
    assert (check.level, check.detail) == ("ok", "Accelerator X (80 GiB)")

    def broken(*shape: int, device: str) -> torch.Tensor:
        raise RuntimeError(f"no kernel image for {device}")

    monkeypatch.setattr(torch, "ones", broken)
    check = line("gpu")
    assert (check.level, check.detail) == ("fail", "RuntimeError: no kernel image for cuda:0")
    assert "driver" in check.advice


def test_lpips_needs_its_trunk_and_the_right_one(line, monkeypatch, tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        check = line("lpips")
        assert check.level == "warn"
        assert f"https://download.pytorch.org/models/{LPIPS_TRUNK}" in check.advice
        trunk = tmp_path / "checkpoints" / LPIPS_TRUNK
        trunk.parent.mkdir()
        trunk.write_bytes(b"half a download")
        assert line("lpips").level == "fail"
        assert str(trunk) in line("lpips").detail
        monkeypatch.setattr("viewgen.networks.files.file_digest", lambda path: "sha256:397923af8e79")
        assert line("lpips").level == "ok"
    finally:
        torch.hub.set_dir(before)
    monkeypatch.setattr("viewgen.cli.doctor.importlib.util.find_spec", lambda name: None)
    assert line("lpips").detail == "not installed"


def test_weights_that_are_missing_or_altered_fail(line, monkeypatch):
    known = weights.cards()
    name, card = next(iter(known.items()))
    altered = dataclasses.replace(card, sha256="0" * 64)
    monkeypatch.setattr(weights, "cards", lambda: known | {name: altered})
    assert line("weights").level == "fail"
    assert name in line("weights").detail
    gone = dataclasses.replace(card, file=Path("weights/nothing.safetensors"))
    monkeypatch.setattr(weights, "cards", lambda: known | {name: gone})
    assert line("weights").level == "fail"
    assert "install" in line("weights").advice


def test_help_shows_an_example(capsys):
    code, text = run("--help", capsys=capsys)
    assert code == 0
    assert "viewgen doctor --json" in text
