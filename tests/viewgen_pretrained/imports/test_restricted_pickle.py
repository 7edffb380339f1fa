"""The restricted reader: equal to Python's own on what is harmless, and deaf to everything else."""

import argparse
import contextlib
import copyreg
import io
import os
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from viewgen.errors import MissingFileError, ModelError
from viewgen_pretrained.imports.restricted_pickle import _Budget, _builders, _load, read_pickle
from viewgen_pretrained.imports.tensor_records import Attributes, TensorRecord

FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.booleans()
VALUES = st.recursive(
    SCALARS | st.sets(KEYS),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def read(data: bytes) -> Any:
    budget = _Budget(len(data))
    return _load(io.BytesIO(data), _builders(budget), budget)


def refusal(data: bytes) -> str:
    with pytest.raises(ModelError) as error:
        read(data)
    return str(error.value)


@FRESH
@given(value=VALUES, protocol=st.integers(0, 5))
def test_plain_containers_read_as_pythons_own_reader_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    assert read(data) == pickle.loads(data) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shared_values_stay_shared_and_numbers_of_numpy_become_pythons(protocol):
    inner = [1]
    value = {"a": inner, "b": inner, "gain": np.float64(0.5), "count": np.int64(3), "half": np.float16(2)}
    found = read(pickle.dumps(value, protocol))
    assert found == {"a": [1], "b": [1], "gain": 0.5, "count": 3, "half": 2.0}
    assert found["a"] is found["b"]
    assert type(found["gain"]) is float


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(10)[3:7],
        torch.tensor(2.5, dtype=torch.float16),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(4, dtype=torch.bfloat16),
    ],
)
def test_tensors_and_parameters(tensor, protocol):
    values = [tensor, torch.nn.Parameter(tensor, requires_grad=False)]
    for record in read(pickle.dumps(values, protocol)):
        assert isinstance(record, TensorRecord)
        assert record.tensor().dtype == tensor.dtype
        assert torch.equal(record.tensor(), tensor)


def test_files_of_torch_save_from_before_zip_archives(tmp_path):
    path = tmp_path / "old.pt"
    shared = torch.arange(4.0)
    document = {
        "g_ema": OrderedDict(a=shared, b=shared[2:]),
        "args": argparse.Namespace(size=8, path="x"),
        "sizes": shared.shape,
    }
    document["g_ema"]._metadata = OrderedDict(version=1)
    torch.save(document, path, _use_new_zipfile_serialization=False)
    found = read_pickle(path)
    assert list(found["g_ema"]) == ["a", "b"]
    assert torch.equal(found["g_ema"]["b"].tensor(), shared[2:])
    assert found["args"] == Attributes(size=8, path="x")
    assert found["sizes"] == (4,)
    whole = path.read_bytes()
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            read_pickle(path)


# what hostile pickles are known to call
HOSTILE = [
    "os system", "posix system", "subprocess Popen", "builtins eval", "builtins exec", "builtins getattr",
    "__builtin__ __import__", "builtins open", "importlib import_module", "runpy run_path", "torch load",
    "torch.hub load", "torch._utils _rebuild_device_tensor_from_numpy", "pickle loads", "functools partial",
    "operator attrgetter", "numpy.core.multiarray _reconstruct", "copyreg _reconstructor", "types CodeType",
    "torch_utils.persistence _src_to_module", "collections defaultdict", "builtins bytearray",
    "torch.storage _load_from_bytes.__globals__", "collections OrderedDict.fromkeys",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_other_name_is_refused_by_name_and_nothing_runs(name, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    module, function = name.split(" ")
    command = f"(S'touch {canary}'\ntR."
    assert f"'{module}.{function}'" in refusal(f"c{module}\n{function}\n{command}".encode())
    by_stack = (
        pickle.PROTO
        + b"\x04"
        + b"".join(
            pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode() for part in (module, function)
        )
        + pickle.STACK_GLOBAL
        + command.encode()
    )
    assert f"'{module}.{function}'" in refusal(by_stack)
    assert "uses INST" in refusal(f"(S'touch {canary}'\ni{module}\n{function}\n.".encode())
    assert not canary.exists()


def test_the_canary_would_sing_in_pythons_reader(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode())
    assert canary.exists()


def test_a_command_in_the_bytes_of_a_tensor_is_refused(tmp_path):
    canary = tmp_path / "canary"

    class Command:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    for inner in (pickle.dumps(Command(), 2), legacy(Command())):
        outer = b"ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(inner, 3)[2:-1] + b"tR."
        refusal(outer)
    assert not canary.exists()


def legacy(value: Any, *storages: bytes, keys: Any = ()) -> bytes:
    """Write torch's older format by hand."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in (*head, value, list(keys))) + b"".join(storages)


def tensor_bytes(numel: int, *, stored: int = 4, shape: str = "(K\x02t", stride: str = "(K\x01t") -> bytes:
    """Write a pickle of a tensor whose description is free to lie."""
    number = pickle.dumps(numel, 2)[2:-1]
    storage = (
        b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpu" + number + b"NtQ."
    )
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    inner = b"".join(pickle.dumps(part, 2) for part in head) + storage + pickle.dumps(["k"], 2)
    inner += struct.pack("<q", numel) + bytes(4 * stored)
    loaded = b"ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(inner, 3)[2:-1] + b"tR"
    rest = b"K\x00" + shape.encode("latin-1") + stride.encode("latin-1")
    return b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n(" + loaded + rest + b"\x89}tR."


def test_sizes_are_checked_before_memory_is_taken():
    assert read(tensor_bytes(4)).tensor().tolist() == [0, 0]
    tracemalloc.start()
    try:
        assert "2,500,000,000 values, 10,000,000,000 bytes" in refusal(tensor_bytes(2_500_000_000))
        assert "end early" in refusal(tensor_bytes(4, stored=3))
        assert "cut short" in refusal(b"\x80\x04\x8e" + struct.pack("<Q", 10 << 30) + b"x.")  # BINBYTES8
        assert "cut short" in refusal(b"\x80\x04B" + struct.pack("<I", (1 << 32) - 1) + b"x.")
        assert (
            read(b"\x80\x04\x95" + struct.pack("<Q", 10 << 30) + b"N.") is None
        )  # FRAME, which says nothing
        assert read(b"Nr" + struct.pack("<I", (1 << 32) - 1) + b".") is None  # LONG_BINPUT far out
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ("(K\x05t", "(K\x01t"),  # five of four values
        ("(K\x02t", "(K\x04t"),  # the second lies outside
        ("(J\0\0\0\x40J\0\0\0\x40t", "(K\0K\0t"),  # 2^60 times the same value
        ("(K\x02K\x02t", "(K\x01t"),
        ("(J\xff\xff\xff\xfft", "(K\x01t"),
        ("(K\x02t", "(Nt"),
        ("(" + "K\x01" * 9 + "t", "(" + "K\x01" * 9 + "t"),
    ],
)
def test_views_must_lie_in_their_storage(shape, stride):
    refusal(tensor_bytes(4, shape=shape, stride=stride))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"h\x07.", "refers to value 7, which it never made"),
        (b"g99\n.", "refers to value 99"),
        (b"\x80\x02U\x01xQ.", "uses BINPERSID"),
        (b"Pabc\n.", "uses PERSID"),
        (b"\x82\x01.", "uses EXT1"),
        (b"(N1.", "takes more values"),
        (b".", "takes more values"),
        (b"a.", "takes more values"),
        (b"t.", "a mark is missing"),
        (b"N", "damaged"),
        (b"", "damaged"),
        (b"\xff.", "damaged"),
        (b"I1\n(tR.", "uses something as a function"),
        (b"ctorch\nFloatStorage\n(tR.", "uses something as a function"),
        (b"ccollections\nOrderedDict\nN\x81.", "uses something as a function"),
        (b"ccollections\nOrderedDict\n(I1\nI2\nI3\ntR.", "cannot take 3 such values"),
        (b"ccollections\nOrderedDict\n(I1\ntR.", "not made of pairs"),
        (b"ccollections\nOrderedDict\n(dS'__call__'\nNsb.", "sets the state of a Name"),
        (b"I1\n}b.", "sets the state of a int"),
        (b"(dI1\na.", "fills a dict as if it were a list"),
        (b"]I1\nI2\ns.", "fills a list as if it were a dict"),
        (b"(lI1\n\x90.", "a mark is missing"),
        (b"}]Ns.", "a list is used as a key"),
        (b"}(I1\nI2\ntNs.", "a tuple is used as a key"),
        (b"c_codecs\nencode\n(V\\u0100\nS'latin1'\ntR.", "characters that are none"),
        (b"c_codecs\nencode\n(Vx\nS'rot13'\ntR.", "unknown encoding"),
        (b"cnumpy\ndtype\n(S'O8'\ntR.", "type other than"),
        (b"ctorch._utils\n_rebuild_parameter\n(I1\ntR.", "a parameter is not a tensor"),
        (b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(dtR.", "a mark is missing"),
        (b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(}tR.", "does not describe itself"),
        (b"N\x92.", "uses NEWOBJ_EX"),
    ],
)
def test_damaged_pickles_are_refused_with_the_reason(data, message):
    assert message in refusal(data)


def test_an_extension_registered_in_this_process_is_no_way_in():
    copyreg.add_extension("os", "system", 0x70)
    try:
        assert "uses EXT1" in refusal(b"\x82\x70(S'true'\ntR.")
    finally:
        copyreg.remove_extension("os", "system", 0x70)


def test_a_bomb_of_shared_tuples_costs_nothing():
    bomb = b"N" + b"2\x86" * 5000 + b"."  # 2^5000 leaves, if anybody walked them
    assert isinstance(read(bomb), tuple)
    assert "a tuple is used as a key" in refusal(b"}" + bomb[:-1] + b"Ns.")


def test_the_number_of_instructions_is_bounded(monkeypatch):
    monkeypatch.setattr("viewgen_pretrained.imports.restricted_pickle.MAX_OPCODES", 1000)
    assert "more than 1,000 instructions" in refusal(b"N0" * 1000 + b"N.")


@pytest.mark.parametrize("data", [b"N" + b"2" * 10**6, b"N" + b"\x85" * 10**6])
def test_slow_pickles_end(data, tmp_path):
    path = tmp_path / "slow.pkl"
    path.write_bytes(data + b".")
    started = time.process_time()
    with pytest.raises(ModelError, match="instructions"):
        read_pickle(path)
    assert time.process_time() - started < 20  # half a million instructions, on a busy machine too


def test_a_tensors_bytes_count_each_time_that_they_are_named():
    """One text of a tensor that is named 1000 times would be 1000 tensors."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    storage = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpuM\x10\x27NtQ."
    inner = b"".join(pickle.dumps(part, 2) for part in head) + storage + pickle.dumps(["k"], 2)
    inner += struct.pack("<q", 10_000) + bytes(40_000)
    start = b"\x80\x03ctorch.storage\n_load_from_bytes\nq\x02B" + struct.pack("<I", len(inner)) + inner
    again = b"h\x02h\x03\x85R0"
    read(start + b"q\x0300" + again + b"N.")
    assert "more bytes than the file" in refusal(start + b"q\x0300" + again * 1000 + b"N.")


def test_nested_archives_do_not_recurse():
    inner = legacy(None)
    for _ in range(3):
        inner = b"\x80\x03ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(inner, 3)[2:-1] + b"tR."
    assert "not stored as torch stores them" in refusal(inner) or "it asks for" in refusal(inner)


@FRESH
@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"\x80\x02}(", b"]", b"ctorch\nSize\n"]))
def test_any_bytes_are_read_or_refused(data, start):
    with contextlib.suppress(ModelError):
        read(start + data)


def test_absent_empty_and_enormous_files(tmp_path: Path, monkeypatch):
    with pytest.raises(MissingFileError):
        read_pickle(tmp_path / "nothing.pkl")
    path = tmp_path / "x.pkl"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="has 0 bytes"):
        read_pickle(path)
    with open(path, "wb") as file:
        file.truncate(9 << 30)  # sparse
    with pytest.raises(ModelError, match="expected 1 to"):
        read_pickle(path)
