"""Runs a Dockerfile's instructions in clean root folders: debootstrap gives the base, chroot runs the steps.

No container engine and no image: Debian's python3 stands in for the official Python image of the same Debian
release. What is proved is that the files that are copied are there, that every RUN step works as root in a
system that has nothing else, and that the result runs as the image's user.
"""

import glob
import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import instructions

BASE_PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Where the network is reached, and from which index packages come, is the machine's matter. The mark tells a
# later run of the tests what a killed one has left.
PASSED_ON = (
    *("PIP_", "TORCH_CPU_INDEX", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy"),
    "VIEWGEN_TEST_RUN",
)

# ROOT USER FOLDER WORDS…; the mount lives in a namespace of its own, so that nothing is left of it
_ENTER = """
mount -t proc proc "$1/proc"
root=$1 user=$2 folder=$3
shift 3
exec chroot --userspec="$user" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


@dataclass
class Image:
    """A root folder and what the Dockerfile says about running in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def run(self, *words: str, **more: str) -> str:
        """Run a command as the image's user and return what it prints; RuntimeError if it fails."""
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        home = {"HOME": "/root" if self.user == "0:0" else "/home/viewgen"}
        environment = path | home | passed | self.environment | more
        (self.root / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
        if constraints := passed.get("PIP_CONSTRAINT", "").split():
            texts = [Path(constraint).read_text("utf-8") for constraint in constraints]
            (self.root / "tmp/constraint.txt").write_text("\n".join(texts))
            environment["PIP_CONSTRAINT"] = "/tmp/constraint.txt"
        result = subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-c", _ENTER, "sh", self.root, self.user, self.folder, *words],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if result.returncode != 0:
            raise RuntimeError(f"{shlex.join(words)}: exit code {result.returncode}\n{result.stdout[-4000:]}")
        return result.stdout


def debian(folder: Path, release: str) -> Path:
    """Make a minimal Debian with Python in `folder` and return it."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", release, folder],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # a network may have certificate authorities of its own
    if CERTIFICATES.exists():
        shutil.copy2(CERTIFICATES, folder / CERTIFICATES.relative_to("/"))
    return folder


class Builder:
    """Builds images one after another; equal stages are built once, as a container engine does.

    Args:
        base: root folder that every FROM begins with.
        context: folder that COPY copies from.
        folder: folder of the roots.
        arguments: build arguments.
    """

    def __init__(self, base: Path, context: Path, folder: Path, **arguments: str) -> None:
        self.base = base
        self.context = context
        self.folder = folder
        self.arguments = arguments
        self._stages: dict[str, Image] = {}

    def build(self, dockerfile: Path) -> Image:
        """Carry out all stages and return the last."""
        stages: list[tuple[str, list[tuple[str, str]]]] = []
        for word, arguments in instructions(dockerfile):
            if word == "FROM":
                stages.append((arguments.partition(" AS ")[2], []))
            elif stages:
                stages[-1][1].append((word, arguments))
        named: dict[str, Image] = {}
        for name, steps in stages:
            key = json.dumps(steps)
            if key not in self._stages:
                self._stages[key] = self._stage(steps, named)
            named[name] = self._stages[key]
        return named[""]

    def _stage(self, steps: list[tuple[str, str]], named: dict[str, Image]) -> Image:
        image = Image(self.folder / f"root{len(self._stages)}")
        subprocess.run(["cp", "--archive", self.base, image.root], check=True)
        build_arguments = {}
        for word, arguments in steps:
            if word == "ARG":
                name, _, default = arguments.partition("=")
                build_arguments[name] = self.arguments.get(name, default)
            elif word == "COPY":
                self._copy(arguments.split(), image, named)
            elif word == "RUN":
                variables = image.environment | build_arguments
                expanded = [_expand(part, variables) for part in shlex.split(arguments)]
                image.run(*expanded)
            elif word == "ENV":
                for pair in shlex.split(arguments):
                    name, _, value = pair.partition("=")
                    before = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
                    image.environment[name] = _expand(value, before | image.environment)
            elif word == "USER":
                image.user = arguments
            elif word == "WORKDIR":
                image.folder = arguments
                (image.root / arguments.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif word == "HEALTHCHECK":
                image.healthcheck = json.loads(arguments.partition("CMD ")[2])
            elif word == "ENTRYPOINT":
                image.entrypoint = json.loads(arguments)
            elif word == "CMD":
                image.command = json.loads(arguments)
            elif word != "VOLUME":
                raise ValueError(f"{word} {arguments}: an instruction that this build does not know")
        return image

    def _copy(self, words: list[str], image: Image, named: dict[str, Image]) -> None:
        source_root = self.context
        if words[0].startswith("--from="):
            source_root = named[words.pop(0).partition("=")[2]].root
        *sources, target = words
        destination = image.root / target.lstrip("/")
        if target.endswith("/") or len(sources) > 1:
            destination.mkdir(parents=True, exist_ok=True)
        for source in sources:
            path = source_root / source.lstrip("/")
            # of a folder its content, as COPY does
            copied = f"{path}/." if path.is_dir() else path
            if path.is_dir():
                destination.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--archive", copied, destination], check=True)


def build_context(root: Path, ignore_file: Path, folder: Path) -> Path:
    """Copy what an image's .dockerignore lets through into `folder`."""
    for line in ignore_file.read_text().split("\n"):
        if not line.startswith("!"):
            continue
        for path in map(Path, glob.glob(str(root / line[1:]))):
            target = folder / path.relative_to(root)
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, target, symlinks=True, ignore=ignored)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    return folder


def _expand(text: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return text
