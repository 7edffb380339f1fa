"""``viewgen doctor``: a check of everything that the other commands need."""

import functools
import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

import click

from viewgen.cli import print_json
from viewgen.extras import EXTRAS, installed

__all__ = ["Check", "doctor", "examine"]

GIB = 2**30
MIN_PYTHON = (3, 11)
MIN_MEMORY = 4 * GIB
MIN_FREE_DISK = 2 * GIB
# extras that no other line is about → what they are for
OPTIONAL = {
    "gallery": "for `viewgen inspect`",
    "readouts": "for the gallery's map of views under f, and diagnostics of scikit-learn",
    "faiss": "to find the nearest neighbours of large sets sooner",
    "fid": "for the features of Inception in `viewgen measure`",
    "tensorboard": "for --logger tensorboard",
    "wandb": "for --logger wandb",
    "mlflow": "for --logger mlflow",
    "hf": "for hf:NAME data sets, and the hub",
    "parquet": "for `viewgen export --to parquet`",
    "xarray": "for the to_xarray() of a cache",
}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: subject of the check.
        level: ``"ok"``, ``"warn"`` (an optional part is missing) or ``"fail"`` (a required part is missing).
        detail: result of the check.
        advice: remedy; empty if the check passed.
    """

    name: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


Outcome = tuple[Literal["ok", "warn", "fail"], str, str]


def _ok(detail: str) -> Outcome:
    return "ok", detail, ""


def _python() -> Outcome:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return "fail", version, f"viewgen needs Python {'.'.join(map(str, MIN_PYTHON))} or later"
    return _ok(version)


def _torch() -> Outcome:
    import torch

    from viewgen.networks.precision import native_bfloat16

    torch.zeros(2, 2) @ torch.zeros(2, 2)
    bfloat16 = "bfloat16 in hardware" if native_bfloat16() else "bfloat16 emulated (keep --precision float32)"
    return _ok(f"{torch.__version__}, {torch.get_num_threads()} threads, {bfloat16}")


def _gpu() -> Outcome:
    import torch

    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        advice = (
            "digits and small jobs run on the processor; for the rest see https://pytorch.org/get-started"
        )
        return "warn", f"none in reach, torch is {build}", advice
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        torch.ones(8, 8, device=f"cuda:{index}").sum().item()
        names.append(f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)")
    return _ok(", ".join(names))


def _torchvision() -> Outcome:
    from viewgen.networks.torchvision_import import import_torchvision, plain_import_fails

    import_torchvision("models.resnet")
    version = metadata.version("torchvision")
    if not plain_import_fails():
        return _ok(version)
    index = "https://download.pytorch.org/whl/cpu"
    return (
        "warn",
        f"{version}, built for another torch: viewgen works around that, a plain `import torchvision` fails",
        f"for scripts of your own: pip install --force-reinstall --no-deps --index-url {index} "
        f"torchvision=={version.partition('+')[0]}",
    )


def _package(name: str) -> Callable[[], Outcome]:
    def check() -> Outcome:
        importlib.import_module(name)
        return _ok(metadata.version(name))

    return check


def _extra(extra: str, what_for: str) -> Callable[[], Outcome]:
    def check() -> Outcome:
        modules = EXTRAS[extra][1]
        if not installed(extra):
            return "warn", "not installed", f"pip install 'viewgen[{extra}]' {what_for}"
        for module in modules:
            importlib.import_module(module)
        return _ok(metadata.version(modules[0]))

    return check


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Return module → names of the installed packages that have it; takes a while."""
    return metadata.packages_distributions()


def _optional(extra: str, what_for: str) -> Callable[[], Outcome]:
    """Return a check that an extra is installed, without importing it: some take seconds."""

    def check() -> Outcome:
        if not installed(extra):
            return "warn", "not installed", f"pip install 'viewgen[{extra}]' {what_for}"
        packages = sorted({_distributions()[module][0] for module in EXTRAS[extra][1]})
        return _ok(", ".join(f"{package} {metadata.version(package)}" for package in packages))

    return check


def _lpips() -> Outcome:
    from viewgen.inversion.perceptual import LPIPS_TRUNK, lpips_trunk
    from viewgen.networks.files import file_digest

    instead = "without it inversions use the discriminator's features"
    url = f"https://download.pytorch.org/models/{LPIPS_TRUNK}"
    if importlib.util.find_spec("lpips") is None:
        return "warn", "not installed", f"pip install 'viewgen[lpips]'; {instead}"
    trunk = lpips_trunk()
    if not trunk.is_file():
        return "warn", f"no weights at {trunk}", f"put {url} there; {instead}"
    # torchvision names its files by the first digits of their sha256
    wanted = LPIPS_TRUNK.removesuffix(".pth").rsplit("-", 1)[1]
    if not file_digest(trunk).removeprefix("sha256:").startswith(wanted):
        return "fail", f"{trunk} is damaged or another file (its sha256)", f"delete it, or get {url} again"
    return _ok(f"{metadata.version('lpips')}, weights at {trunk}")


def _data_root(data_root: str | None) -> Callable[[], Outcome]:
    def check() -> Outcome:
        from viewgen.datasets import resolve_data_root

        root = resolve_data_root(data_root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            advice = "name a writable directory with --data-root or VIEWGEN_DATA"
            return "fail", f"{root} cannot be written ({error.strerror})", advice
        free = shutil.disk_usage(root).free
        detail = f"{root}, {free / GIB:.1f} GiB free"
        if free < MIN_FREE_DISK:
            return (
                "warn",
                detail,
                "downloads and decoded data sets need more; free some or move the data root",
            )
        return _ok(detail)

    return check


def _machine() -> Outcome:
    from viewgen.device import available_cores
    from viewgen.memory import total_bytes

    memory = total_bytes()
    detail = f"{available_cores()} cores, {memory / GIB:.1f} GiB memory"
    if memory < MIN_MEMORY:
        return "warn", detail, "a worker takes about 2 GiB; use --workers 1"
    return _ok(detail)


def _weights() -> Outcome:
    from viewgen.networks.weights import cards, local_file

    known = cards()
    for card in known.values():
        local_file(card)
    return _ok(f"{len(known)} files as their cards describe them: {', '.join(sorted(known))}")


def examine(data_root: str | None = None) -> list[Check]:
    """Check everything that the other commands need; never raises.

    Args:
        data_root: folder of the data sets; the default is that of every command.
    """
    again = "pip install --force-reinstall viewgen"
    checks: tuple[tuple[str, Callable[[], Outcome], str], ...] = (
        ("python", _python, ""),
        ("torch", _torch, "see https://pytorch.org/get-started"),
        (
            "gpu",
            _gpu,
            "the driver does not work with this build of torch; see https://pytorch.org/get-started",
        ),
        ("torchvision", _torchvision, "install the torchvision that belongs to this torch"),
        (
            "ray",
            _extra("ray", "for caches on many cores; without it use --executor local"),
            "pip install --upgrade 'viewgen[ray]'; until then use --executor local",
        ),
        ("zarr", _package("zarr"), "pip install 'zarr>=3.1'"),
        ("s3fs", _extra("s3", "to keep caches at s3:// URLs"), "pip install --upgrade s3fs"),
        ("lpips", _lpips, "pip install --upgrade lpips"),
        *((extra, _optional(extra, what_for), again) for extra, what_for in OPTIONAL.items()),
        ("data root", _data_root(data_root), "name a writable directory with --data-root or VIEWGEN_DATA"),
        ("machine", _machine, again),
        ("weights", _weights, again),
    )
    found = []
    for name, check, advice in checks:
        try:
            level, detail, what_to_do = check()
        except Exception as error:  # whatever is broken, the other lines still help
            level, detail, what_to_do = "fail", f"{type(error).__name__}: {error}", advice
        found.append(Check(name=name, level=level, detail=detail, advice=what_to_do))
    return found


@click.command()
@click.option("--data-root", default=None, help="Where data sets are.  [default: as for every command]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, /, data_root: str | None, as_json: bool) -> None:
    """Check the environment; exit code 1 if something that is needed fails.

    \b
    Examples:
      viewgen doctor
      viewgen doctor --json
    """
    checks = examine(data_root)
    ok = all(check.level != "fail" for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        from rich.text import Text

        from viewgen.terminal import console

        shown = console()
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = Text(f"{check.level:<4}", style=COLOURS[check.level])
            shown.print(mark, f" {check.name:<{width}}  {check.detail}", soft_wrap=True)
            if check.advice:
                click.echo(f"{'':<{width + 8}}→ {check.advice}")
    ctx.exit(0 if ok else 1)
