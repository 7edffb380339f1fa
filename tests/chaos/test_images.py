"""Both images, step by step, in clean roots (needs root, debootstrap and a network; some four minutes)."""

import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
sys.path.insert(0, str(ROOT / "tests/docker"))

from clean_root import Builder, build_context, debian  # noqa: E402

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed"),
]


TORCH = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    try:
        urllib.request.urlopen(f"{TORCH}/torch/", timeout=20).close()
    except urllib.error.HTTPError:
        raise
    except OSError as error:
        pytest.skip(f"{TORCH}, from which the images take torch, does not answer: {error}")
    release = re.search(r"^ARG PYTHON_IMAGE=.*-slim-(\w+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="viewgen-images-") as name:
        folder = Path(name)
        context = build_context(ROOT, DOCKER / "Dockerfile.dockerignore", folder / "context")
        base = debian(folder / "debian", release[1])
        yield Builder(base, context, folder, DEVICE="cpu")


@pytest.mark.timeout(3600)
def test_the_images_build_and_run_in_clean_roots(builder):
    generation = builder.build(DOCKER / "Dockerfile")
    assert generation.user == "1000:1000"
    assert "Usage: viewgen" in generation.run(*generation.entrypoint, *generation.command)
    generation.run(*generation.healthcheck)
    assert generation.run("id", "-u").strip() == "1000"
    # the shipped weights and images are in it, and it writes where it may
    words = ("cache", "--dataset", "digits", "--method", "wperturb", "--limit", "2", "--executor", "local")
    generation.run(*generation.entrypoint, *words, "--out", "/data/caches/c.zarr")
    generation.run("viewgen", "verify", "/data/caches/c.zarr")
    for script in ("ray-node", "submit"):
        with pytest.raises(RuntimeError, match="RAY_"):
            generation.run(script)

    training = builder.build(DOCKER / "Dockerfile.train")
    assert "Usage: viewgen train" in training.run(*training.entrypoint, *training.command)
    training.run(*training.healthcheck)
