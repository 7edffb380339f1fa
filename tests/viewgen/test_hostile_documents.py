"""Documents that were damaged or made to harm: a typed error, in seconds, within the memory.

The generator changes valid documents: counts of 400 digits, other types, brackets in brackets. Digests are
set right again, as whoever means harm would do. ``make chaos`` runs the same with more examples.
"""

import contextlib
import copy
import hashlib
import json
import os
import sys
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from viewgen.documents import parse_json, read_json
from viewgen.errors import CorruptDataError, UsageError, ViewgenError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import code_shape, load_encoder, load_model, read_header, save_model
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.networks.weights import user_cards
from viewgen.store import CacheReader, CacheSpec, open_storage, repair_cache, summarise_cache, verify_cache
from viewgen.store.commits import _DIGEST
from viewgen.store.spec import canonical_json, identity_of
from viewgen.testing.caches import small_spec, write_random_cache

sys.path.insert(0, str(Path(__file__).parent))

from hostile import EXAMPLES, HOSTILE, LIMITS, mutated, nested, text_of, typed

pytestmark = pytest.mark.filterwarnings("ignore")


def read_all(url):
    """Read a cache in every way; return the exit code of its verification."""
    reports = [typed(lambda: verify_cache(url)), typed(lambda: summarise_cache(url))]
    reader = typed(lambda: CacheReader(url))
    if isinstance(reader, CacheReader) and len(reader):
        typed(lambda: reader.views(reader.rows[:1]))
        typed(lambda: reader.shard(reader.committed[0]))
    if isinstance(reports[0], ViewgenError):
        return reports[0].exit_code
    json.dumps(reports[1]) if isinstance(reports[1], dict) else None
    return reports[0].exit_code


@pytest.fixture(scope="module")
def template():
    """The objects of a small cache."""
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    write_random_cache(storage, small_spec(arrays=("w_plus",), latent_shape=(2, 4)))
    return {path: storage.read(path) for path in storage.paths()}


@contextlib.contextmanager
def cache_with(template, changes):
    """Write a cache, and forget it: to list a folder in memory takes a look at all files there."""
    url = f"memory://{uuid.uuid4().hex}"
    storage = open_storage(url)
    for path, data in (template | changes).items():
        if data is not None:
            storage.write(path, data)
    try:
        yield url
    finally:
        storage.delete_tree("")


def read_with(template, changes):
    with cache_with(template, changes) as url:
        return read_all(url)


def sealed(document):
    """Return a group's document with the digest and the identity that belong to its specification."""
    try:
        entry = document["attributes"]["viewgen"]
        entry["digest"] = hashlib.sha256(canonical_json(entry["spec"])).hexdigest()
        entry["identity"] = identity_of(entry["spec"], entry["format_version"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    return text_of(document)


def record_line(document):
    body = text_of(document)[:-1]
    return body + _DIGEST % hashlib.sha256(body).hexdigest().encode()


@LIMITS
@given(data=st.data())
def test_a_group_with_hostile_values(template, data):
    document = data.draw(mutated(json.loads(template["zarr.json"])))
    read_with(template, {"zarr.json": sealed(document)})


SPEC_FIELDS = (
    "num_images",
    "num_views",
    "channels",
    "height",
    "width",
    "shard_images",
    "seed",
    "latent_shape",
)


@pytest.mark.parametrize("field", SPEC_FIELDS)
def test_every_field_of_the_specification(template, field):
    for value in HOSTILE:
        document = json.loads(template["zarr.json"])
        document["attributes"]["viewgen"]["spec"][field] = copy.deepcopy(value)
        with cache_with({}, {"zarr.json": sealed(document)}) as url:
            reader = typed(lambda url=url: CacheReader(url))
        assert isinstance(reader, CacheReader | ViewgenError)


@LIMITS
@given(data=st.data())
def test_a_record_with_hostile_values(template, data):
    document = json.loads(template["commits/00000001.json"])
    document.pop("digest")
    line = record_line(data.draw(mutated(document)))
    compacted = data.draw(st.booleans())
    place = "commits/compacted-00000000.jsonl" if compacted else "commits/00000001.json"
    assert read_with(template, {"commits/00000001.json": None, place: line}) in (0, 4, 5)


@settings(LIMITS, max_examples=max(1, EXAMPLES // 3))
@given(data=st.data())
def test_an_array_with_hostile_metadata(template, data):
    name = data.draw(st.sampled_from(["views", "label"]))
    document = data.draw(mutated(json.loads(template[f"{name}/zarr.json"])))
    assert read_with(template, {f"{name}/zarr.json": text_of(document)}) in (0, 5)


@pytest.mark.parametrize(
    "cut", [b"", b"{", b"null", b"[]", b"\xff", b'{"a":' * 5000, b"[" * 100_000, b"1" * 5000]
)
def test_no_json_at_all(template, cut):
    assert read_with(template, {"zarr.json": cut}) == 5
    assert read_with(template, {"views/zarr.json": cut}) == 5
    assert read_with(template, {"commits/00000001.json": cut}) == 5


@pytest.mark.parametrize(
    "name", ["zarr.json", "views/zarr.json", "commits/00000001.json", "views/c.1.0.0.0.0"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "large", "folder"])
def test_a_file_that_is_none_or_never_ends(template, tmp_path, name, kind, no_flushing):
    url = str(tmp_path / "cache.zarr")
    storage = open_storage(url)
    for path, data in template.items():
        storage.write(path, data)
    file = tmp_path / "cache.zarr" / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as opened:
            opened.truncate(500_000_000)
    report = typed(lambda: verify_cache(url))
    if kind == "folder":
        assert isinstance(report, ViewgenError) or report.exit_code
        return
    assert report.exit_code == 5
    assert name in str(report if isinstance(report, ViewgenError) else report.faults)
    if not isinstance(report, ViewgenError) and report.num_shards:
        reader = typed(lambda: CacheReader(url))
        typed(lambda: reader.views(reader.rows))
        typed(lambda: repair_cache(url, None, report))


def test_limits_of_sizes_are_told_when_a_cache_is_made():
    with pytest.raises(UsageError, match="num_images is 2000000000, it must be at most"):
        small_spec(num_images=2 * 10**9, shard_images=10**6)
    with pytest.raises(UsageError, match="number of shards"):
        small_spec(num_images=10**7, shard_images=1)
    with pytest.raises(UsageError, match="one image would have"):
        small_spec(height=65536, width=65536)
    assert CacheSpec.from_json(small_spec().to_json()) == small_spec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "damaged"),
        (str(10**400), "a number of 401 digits"),
        (json.dumps(nested(60)), "more than 48 levels"),
        ("[" * 100_000, "brackets within brackets"),
        ("[" + "1," * 4000 + "1]", "larger than 5000 bytes"),
    ],
)
def test_a_document_out_of_bounds(text, message, tmp_path):
    with pytest.raises(CorruptDataError, match=message):
        parse_json(text, "it", most_bytes=200_000 if message.startswith("br") else 5000)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CorruptDataError):
        read_json(tmp_path / "x.json", most_bytes=5000)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_has_not(text):
    assert parse_json(text, "it") is not None
    with pytest.raises(CorruptDataError):
        parse_json(text, "it", finite=True)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    config = GeneratorConfig(image_size=8, channels=(4, 4), num_mapping_layers=1, style_dim=8)
    save_model(Generator(config), folder / "generator.safetensors")
    save_model(
        Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4)), folder / "encoder.safetensors"
    )
    return folder


@settings(LIMITS, max_examples=max(1, EXAMPLES // 3))
@given(data=st.data())
def test_a_weights_file_with_a_hostile_header(networks, tmp_path, data):
    kind = data.draw(st.sampled_from(["generator", "encoder"]))
    header = read_header(networks / f"{kind}.safetensors")
    text = text_of(data.draw(mutated(header))).decode()
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.zeros(2)}, path, metadata={"viewgen": text})
    for act in (lambda: load_model(path, kind), lambda: code_shape(path), lambda: load_encoder(path)):
        assert typed(act) is not None


def test_every_bit_of_a_weights_file_counts(networks, tmp_path):
    """A flipped bit is found, in the tensors and in what describes them."""
    data = (networks / "encoder.safetensors").read_bytes()
    path = tmp_path / "encoder.safetensors"
    header = 8 + int.from_bytes(data[:8], "little")
    places = [
        0,
        7,
        8,
        data.index(b'"width') + 11,
        data.index(b'\\"width') + 13,
        header,
        header + 1000,
        len(data) - 1,
    ]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises((CorruptDataError, ViewgenError), match=r"encoder\.safetensors") as error:
            load_model(path, "encoder")
        if place > header:
            assert error.value.exit_code == 5


@pytest.mark.parametrize("length", [2**63, 500_000_000, 10**7])
def test_a_weights_file_with_a_giant_header(tmp_path, length):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(600_000_000)
    assert "header would have" in str(typed(lambda: read_header(path)))


CARD = {
    "kind": "encoder", "dataset": {"name": "d"}, "network": {"image_size": 8}, "sha256": "0" * 64,
    "file": "encoder.safetensors", "licence": "mine", "command": "c", "parameters": 3,
}  # fmt: skip


@LIMITS
@given(document=mutated(CARD))
@example(document=CARD | {"file": ""})
def test_a_hostile_card(tmp_path, document):
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "encoder.card.json").write_bytes(text_of(document))
    found = typed(lambda: user_cards(tmp_path))
    if isinstance(found, dict):
        assert {card.file.parent for card in found.values()} == {tmp_path / "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0)
    try:
        assert "cannot list" in str(typed(lambda: user_cards(tmp_path)))
    finally:
        (tmp_path / "mine").chmod(0o700)
