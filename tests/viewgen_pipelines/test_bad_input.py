"""What cannot work is refused with one clear message and its exit code, before anything is written."""

import json

import faulty_method  # noqa: F401
import pytest
import torch

from viewgen.cli import main
from viewgen.errors import CacheMismatchError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards import plan
from viewgen_pipelines.shards.plan import automatic_shard_images


@pytest.fixture
def encoder_file(tmp_path):
    """Return a function that writes an untrained encoder for images of some size."""

    def write(name, image_size=32, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = Encoder(EncoderConfig(image_size=image_size, width=8, projection_dim=16))
        path = tmp_path / name
        save_model(encoder, path)
        return str(path)

    return write


@pytest.fixture
def refused(tmp_path, capsys):
    """Return a function that runs a command which must fail: (exit code, the line on standard error)."""

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as caught:
            main(["cache", "--dataset", "digits", "--out", str(tmp_path / "c.zarr"), *words])
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return caught.value.code, printed.err

    return run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--method", "wserch"], 2, "no view method 'wserch'; did you mean 'wsearch'?"),
        (["--method", "faulty", "--views", "0"], 2, "--views 0: at least one view"),
        (["--method", "faulty", "--limit", "0"], 2, "--limit 0"),
        (["--method", "faulty", "--workers", "0"], 2, "--workers 0"),
        (["--method", "faulty", "--max-attempts", "0"], 2, "--max-attempts 0"),
        (["--method", "faulty", "--hang-timeout", "0"], 2, "--hang-timeout 0"),
        (["--method", "faulty", "--shard-images", "0"], 2, "--shard-images 0"),
        (["--method", "faulty", "--gpus-per-worker", "-1"], 2, "--gpus-per-worker -1"),
        (["--method", "faulty", "--views", "many"], 2, "--views"),
        (["--method", "invert", "--views", "2"], 2, "method 'invert' makes 1 per image"),
        (["--method", "faulty", "--split", "tset"], 2, "test"),
        (["--method", "faulty", "--dataset", "digts"], 2, "did you mean 'digits'?"),
        (
            ["--method", "faulty", "--epsilon-boundary", "0.3"],
            2,
            "epsilon_boundary is a setting of wsearch, wboundary, online; view method 'faulty' ignores it",
        ),
        (["--method", "faulty", "--encoder", "e.safetensors"], 2, "method 'faulty' needs no encoder"),
        (["--method", "faulty", "--inversions", "i.zarr"], 2, "does not start from inversions"),
        (["--method", "faulty", "--keep-latents"], 2, "makes no codes"),
        (
            ["--method", "faulty", "--executor", "local", "--workers", "2"],
            2,
            "--executor local has one worker",
        ),
        (["--method", "faulty", "--executor", "local", "--ray-address", "auto"], 2, "does not use Ray"),
        (["--method", "faulty", "--out", "memory://x"], 2, "add --executor local"),
        (["--method", "faulty", "--out", "s4://x/y"], 1, "unknown protocol 's4'"),
        (["--method", "faulty", "--ray-address", "ray://h:1"], 2, "Ray Client addresses are not supported"),
        (["--method", "faulty", "--ray-address", "head"], 2, "expected HOST:PORT"),
        (["--method", "faulty", "--ray-address", "127.0.0.1:1"], 1, "no Ray cluster answers"),
        (["--method", "expert", "--encoder", "missing.safetensors"], 1, "no weights at missing.safetensors"),
        (["--method", "expert", "--models", "missing"], 1, "viewgen pretrain encoder --dataset digits"),
    ],
)
def test_one_message_and_the_exit_code(refused, words, code, message):
    got, told = refused(*words)
    assert got == code
    assert message in told


def test_networks_for_another_resolution(refused, encoder_file):
    code, told = refused("--method", "expert", "--encoder", encoder_file("e64.safetensors", 64))
    assert code == 1
    assert "is for images of 64 px, data set 'digits' has 32 px" in told


def test_a_network_of_another_kind(refused, encoder_file):
    file = encoder_file("e.safetensors")
    code, told = refused(
        "--method", "invert", "--generator", file, "--inverter", file, "--discriminator", file
    )
    assert code == 1
    assert "holds a network of kind 'encoder'" in told


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_place_that_is_taken(refused, tmp_path, place):
    if place == "file":
        (tmp_path / "c.zarr").write_text("mine")
    else:
        (tmp_path / "c.zarr").mkdir()
        (tmp_path / "c.zarr/thesis.tex").touch()
    code, told = refused("--method", "faulty", "--executor", "local")
    assert code == 1
    assert "c.zarr" in told


def test_an_s3_endpoint_that_does_not_answer(refused):
    endpoint = ["--storage-option", "client_kwargs.endpoint_url=http://127.0.0.1:1"]
    quick = ["--storage-option", "config_kwargs.retries.max_attempts=0"]
    keys = ["--storage-option", "key=AKIAEXAMPLEKEY", "--storage-option", "secret=example-secret"]
    code, told = refused("--method", "faulty", "--out", "s3://bucket/c.zarr", *endpoint, *quick, *keys)
    assert code == 1
    assert "s3://bucket/c.zarr" in told
    assert "example-secret" not in told


def test_another_weight_file_on_an_existing_cache(tmp_path, encoder_file, faults, no_flushing):
    options = {"method": "expert", "limit": 4, "executor": "local", "quiet": True, "views": 2}
    first, second = encoder_file("a.safetensors", seed=0), encoder_file("b.safetensors", seed=1)
    out = str(tmp_path / "c.zarr")
    assert cache("digits", out=out, encoder=first, **options).complete
    with pytest.raises(CacheMismatchError, match=r"models\.encoder: the cache has"):
        cache("digits", out=out, encoder=second, **options)
    moved = tmp_path / "moved.safetensors"
    (tmp_path / "a.safetensors").rename(moved)
    assert cache("digits", out=out, encoder=str(moved), **options).complete, "its bytes count, not its place"


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(tmp_path, capsys):
    words = ["--dataset", "digits", "--method", "faulty", "--limit", "100", "--out", str(tmp_path / "c.zarr")]
    with pytest.raises(SystemExit) as caught:
        main(["cache", *words, "--dry-run", "--json"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["num_images"] == 100
    assert "100 images × 8 views of 32 px" in printed.err
    assert "7 of them to be made" in printed.err
    assert "sigma=0.25" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_images", "image_size", "num_views", "shard_images"),
    [(10, 32, 8, 16), (1437, 32, 8, 64), (50_000, 32, 8, 512), (100_000, 64, 8, 256), (400, 256, 8, 16)],
)
def test_shards_are_a_dozen_of_a_handy_size(num_images, image_size, num_views, shard_images):
    assert automatic_shard_images(num_images, image_size, num_views) == shard_images


def test_a_bad_setting_of_the_method_shows_before_images_are_loaded(refused, monkeypatch):
    monkeypatch.setattr(plan, "load_dataset", lambda *_, **__: pytest.fail("images were loaded"))
    code, printed = refused("--method", "flow")
    assert (code, "flow views need a flow" in printed) == (2, True)
    code, printed = refused("--method", "flow", "--set", "file=nowhere.safetensors")
    assert (code, "nowhere.safetensors" in printed) == (1, True)
