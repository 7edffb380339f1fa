"""Hostile documents for longer: thousands of changed ones, and ten minutes guided by coverage."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTILE = ("tests/viewgen/test_hostile_documents.py", "tests/viewgen/store/test_hostile_quality.py")
SECONDS = float(os.environ.get("VIEWGEN_FUZZ_SECONDS", "600"))

# Bytes as they come: each reader returns, or raises an error of viewgen's.
HARNESS = """
import contextlib, json, sys, tempfile
from pathlib import Path
import atheris
with atheris.instrument_imports(include=["viewgen"]):
    from viewgen.documents import parse_json
    from viewgen.errors import ViewgenError
    from viewgen.networks.files import read_header
    from viewgen.store import CacheSpec
    from viewgen.store.commits import ShardCommit
    from viewgen.store.metadata import metadata_problem
    from viewgen.testing.caches import small_spec

seconds = sys.argv.pop()
file = Path(tempfile.mkdtemp(), "x.safetensors")
layout = small_spec().array_layout()["views"]

def read(data):
    with contextlib.suppress(ViewgenError):
        ShardCommit.from_bytes(data, "it")
    with contextlib.suppress(ViewgenError):
        document = parse_json(data, "it")
        if isinstance(document, dict):
            CacheSpec.from_json(document).array_layout()
    metadata_problem(layout, data)
    file.write_bytes(data)
    with contextlib.suppress(ViewgenError):
        read_header(file)

atheris.Setup([*sys.argv, f"-max_total_time={seconds}", "-rss_limit_mb=1024", "-timeout=30"], read)
atheris.Fuzz()
"""


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_thousands_of_changed_documents(tally):
    started = time.monotonic()
    words = [sys.executable, "-m", "pytest", "-q", "-x", *HOSTILE]
    examples = os.environ.get("VIEWGEN_EXAMPLES", "1500")
    subprocess.run(words, cwd=ROOT, env={**os.environ, "VIEWGEN_EXAMPLES": examples}, check=True)
    tally(f"{examples} documents of each kind in {time.monotonic() - started:.0f} s: typed errors only")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_bytes_guided_by_coverage(tmp_path, tally):
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install atheris")
    (tmp_path / "harness.py").write_text(HARNESS)
    words = [sys.executable, str(tmp_path / "harness.py"), str(tmp_path), str(int(SECONDS))]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    tally(ended.stderr.splitlines()[-1])
