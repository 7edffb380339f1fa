"""Reader of pickles that rebuilds tensors and plain containers without executing code from the file.

Python's unpickler calls any function that a file names. This reader interprets the opcodes and calls no
function from the file: a name becomes an inert `Name`, and its application is looked up in `BUILDERS`, a
fixed table of the names in public StyleGAN2 files. Any other name, opcode or use is an error. Objects of the
official networks become `Persistent` records; their source code is dropped unread.

Sizes are checked before memory is allocated: a tensor's values must lie within the file, and a view within
its storage.
"""

import io
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from viewgen.datasets.archive import open_zip
from viewgen.errors import CorruptDataError, MissingFileError, ModelError
from viewgen_pretrained.imports import tensor_records
from viewgen_pretrained.imports.tensor_records import DTYPES, Attributes, Dtype, Storage, new_set, plain_key

__all__ = ["read_pickle"]

# of a file, its tensors' own pickles included; the official networks have some 30,000
MAX_OPCODES = 500_000
MAX_DIRECTORY_BYTES = 4_000_000
MAX_FILE_BYTES = 8 << 30
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # starts torch.save's format from before it wrote zip archives
LEGACY_PROTOCOL = 1001

Builders = Mapping[str, Callable[..., Any]]
Source = io.BytesIO | mmap.mmap  # their reads end where the data ends, whatever size is asked for


class _Budget:
    """What is left of the instructions and bytes that one file may take.

    A pickle can name a value, and so a tensor's own pickle, any number of times: their sum is bounded.
    """

    def __init__(self, num_bytes: int) -> None:
        self.opcodes, self.num_bytes = MAX_OPCODES, num_bytes

    def spend(self, *, opcodes: int = 0, num_bytes: int = 0) -> None:
        self.opcodes -= opcodes
        self.num_bytes -= num_bytes
        if self.opcodes < 0:
            raise ModelError(f"the pickle has more than {MAX_OPCODES:,} instructions")
        if self.num_bytes < 0:
            raise ModelError("its tensors have more bytes than the file")


def _builders(budget: _Budget) -> Builders:
    def load_from_bytes(data: Any) -> Any:
        """``torch.storage._load_from_bytes``: values of one tensor, in torch's older format."""
        if not isinstance(data, bytes):
            raise ModelError("a tensor's values are not bytes")
        return _read_legacy(io.BytesIO(data), len(data), budget)

    return {**INNER_BUILDERS, "torch.storage._load_from_bytes": load_from_bytes}


INNER_BUILDERS: Builders = {
    "collections.OrderedDict": tensor_records.new_dict,
    "dnnlib.util.EasyDict": tensor_records.new_dict,
    "argparse.Namespace": tensor_records.new_namespace,
    "builtins.set": tensor_records.new_set,
    "__builtin__.set": tensor_records.new_set,
    "__builtin__.bytes": tensor_records.no_bytes,
    "_codecs.encode": tensor_records.encode,
    "numpy.dtype": tensor_records.numpy_dtype,
    "numpy.core.multiarray.scalar": tensor_records.numpy_scalar,
    "numpy._core.multiarray.scalar": tensor_records.numpy_scalar,
    "torch.Size": tensor_records.new_size,
    "torch._utils._rebuild_tensor": tensor_records.rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": tensor_records.rebuild_tensor,
    "torch._utils._rebuild_parameter": tensor_records.rebuild_parameter,
    "torch_utils.persistence._reconstruct_persistent_obj": tensor_records.reconstruct_persistent,
}

CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
TEXT = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
PUSHED = frozenset((*NUMBERS, *BYTES, *TEXT))


@dataclass(frozen=True, slots=True)
class Name:
    """A name in the pickle, as inert text."""

    text: str


def _damaged(what: str) -> ModelError:
    return ModelError(f"the pickle is damaged: {what}")


class _Interpreter:
    """State of one pickle's interpretation: stack, marks and memo."""

    def __init__(self, builders: Builders, persistent: Callable[[Any], Any] | None) -> None:
        self.builders = builders
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged("it takes more values than it has made")
        return self.stack.pop()

    def top(self, kind: type | None = None) -> Any:
        value = self.pop()
        self.stack.append(value)
        if kind is not None and not isinstance(value, kind):
            raise _damaged(f"it fills a {type(value).__name__} as if it were a {kind.__name__}")
        return value

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise _damaged("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def set_items(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise _damaged("a key has no value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[plain_key(key)] = value

    def name(self, text: str) -> Name:
        if text not in self.builders and text not in DTYPES:
            raise ModelError(
                f"it asks for {text[:100]!r}, which is neither a tensor nor a plain container of the public "
                "StyleGAN2 files; nothing that it carries was run"
            )
        return Name(text)

    def apply(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple) or name.text in DTYPES:
            raise _damaged("it uses something as a function that is none")
        try:
            return self.builders[name.text](*arguments)
        except TypeError as error:
            raise _damaged(f"{name.text} cannot take {len(arguments)} such values") from error

    def build(self, state: Any) -> None:
        """Set the state of a record; attributes of a dictionary (torch's ``_metadata``) are dropped."""
        target = self.top()
        if isinstance(target, Attributes):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise _damaged("a namespace's attributes are no dictionary")
            target.update(state)
        elif isinstance(target, Dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
                raise ModelError("a number of numpy is not little-endian")
        elif not isinstance(target, dict):
            raise _damaged(f"it sets the state of a {type(target).__name__}, which has none")

    def run(self, opcode: str, argument: Any) -> None:
        """Apply one opcode other than STOP."""
        stack = self.stack
        if opcode in PUSHED:
            stack.append(argument)
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode]())
        elif opcode in ("PROTO", "FRAME"):
            pass
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top()
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise _damaged(f"it refers to value {argument}, which it never made")
            stack.append(self.memo[argument])
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_mark()))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            values = [self.pop() for _ in range(int(opcode[-1]))]
            stack.append(tuple(reversed(values)))
        elif opcode == "LIST":
            stack.append(self.pop_mark())
        elif opcode == "DICT":
            values = self.pop_mark()
            stack.append({})
            self.set_items(values)
        elif opcode == "FROZENSET":
            stack.append(frozenset(new_set(self.pop_mark())))
        elif opcode == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif opcode == "SETITEMS":
            self.set_items(self.pop_mark())
        elif opcode == "APPEND":
            value = self.pop()
            self.top(list).append(value)
        elif opcode == "APPENDS":
            values = self.pop_mark()
            self.top(list).extend(values)
        elif opcode == "ADDITEMS":
            values = self.pop_mark()
            self.top(set).update(new_set(values))
        elif opcode == "GLOBAL":
            stack.append(self.name(argument.replace(" ", ".", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise _damaged("a name is not text")
            stack.append(self.name(f"{module}.{name}"))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, name = self.pop(), self.pop()
            stack.append(self.apply(name, arguments))
        elif opcode == "BUILD":
            self.build(self.pop())
        elif opcode == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(self.pop()))
        elif opcode == "POP":
            self.pop()
        elif opcode == "POP_MARK":
            self.pop_mark()
        elif opcode == "DUP":
            stack.append(self.top())
        else:
            raise ModelError(f"the pickle uses {opcode}, which no public StyleGAN2 file does")


def _opcodes(source: Source) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(cast(Any, source)):
            yield opcode.name, argument
    except (ValueError, KeyError, IndexError, EOFError, OverflowError) as error:
        if isinstance(error, ModelError):
            raise
        raise _damaged(f"or cut short ({str(error)[:200]})") from error


def _load(
    source: Source,
    builders: Builders,
    budget: _Budget,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from the current position of `source`."""
    interpreter = _Interpreter(builders, persistent)
    for opcode, argument in _opcodes(source):
        if opcode == "STOP":
            return interpreter.pop()
        budget.spend(opcodes=1)
        interpreter.run(opcode, argument)
    raise _damaged("it has no end")


def _described_storage(reference: Any, limit: int) -> tuple[str, Storage]:
    """Return the key and the storage, without values yet, described by a persistent id of torch."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise ModelError("a tensor refers to its values in an unknown way")
    _, kind, key, _, numel, *view = reference
    dtype = DTYPES.get(kind.text) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or type(numel) is not int or any(view):
        raise ModelError("a tensor refers to its values in an unknown way")
    storage = Storage(dtype, numel)
    if not 0 <= storage.num_bytes <= limit:
        raise ModelError(
            f"a tensor is said to have {numel:,} values, {storage.num_bytes:,} bytes; there are {limit:,}"
        )
    return key, storage


def _read_legacy(source: Source, size: int, budget: _Budget) -> Any:
    """Read the format of ``torch.save`` before zip archives: pickles, then raw storages.

    Args:
        source: stream at the start of the file.
        size: size of the whole file in bytes, an upper bound for every tensor.
        budget: what is left for all tensors together.
    """
    start = [_load(source, INNER_BUILDERS, budget) for _ in range(2)]
    if start != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
        raise ModelError("a tensor's values are not stored as torch stores them")
    system = _load(source, INNER_BUILDERS, budget)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelError("a tensor's values were stored on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        key, storage = _described_storage(reference, size)
        return storages.setdefault(key, storage)

    value = _load(source, INNER_BUILDERS, budget, persistent)
    keys = _load(source, INNER_BUILDERS, budget)
    if (
        not isinstance(keys, list)
        or not all(isinstance(k, str) for k in keys)
        or set(keys) != storages.keys()
    ):
        raise ModelError("the stored tensors are not those that the file refers to")
    for key in keys:
        storage = storages[key]
        if int.from_bytes(source.read(8), "little") != storage.numel:
            raise ModelError(
                "a stored tensor has another size than its description, or the file is cut short"
            )
        budget.spend(num_bytes=storage.num_bytes)
        storage.data = source.read(storage.num_bytes)
        if len(storage.data) != storage.num_bytes:
            raise ModelError("the file is cut short: a tensor's values end early")
    return value


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Read the format of ``torch.save``: an uncompressed archive of a pickle and one entry per storage."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    stored = sum(entry.file_size for entry in archive.infolist())
    if stored > size or any(entry.compress_type or entry.flag_bits & 1 for entry in entries.values()):
        raise ModelError(
            f"its {len(entries):,} entries are said to have {stored:,} bytes and the file has {size:,}; "
            "torch stores entries as they are, uncompressed"
        )
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError("it is no archive of torch.save: it has not one data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise ModelError("a tensor's values were stored on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        key, storage = _described_storage(reference, size)
        if key not in storages:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None or entry.file_size != storage.num_bytes:
                raise ModelError(
                    f"a tensor's {storage.num_bytes:,} bytes are missing from the archive, or there are "
                    "not as many"
                )
            storage.data = archive.read(entry)
            storages[key] = storage
        return storages[key]

    return _load(io.BytesIO(archive.read(pickles[0])), INNER_BUILDERS, _Budget(size), persistent)


def read_pickle(path: str | Path) -> Any:
    """Read a pickle, or a file of ``torch.save``, without executing code from it.

    Args:
        path: path of the file.

    Returns:
        plain containers of numbers, text, `TensorRecord`, `Persistent` and `Attributes`.

    Raises:
        MissingFileError: the file does not exist.
        ModelError: the file is damaged or holds another kind of object, which the message names.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no file at {path}")
    size = path.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise ModelError(f"{path} has {size:,} bytes; expected 1 to {MAX_FILE_BYTES:,}")
    try:
        if zipfile.is_zipfile(path):
            with open_zip(path, MAX_DIRECTORY_BYTES) as archive:
                return _read_archive(archive, size)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
            if LEGACY_MAGIC.to_bytes(10, "little") in source[:16]:
                return _read_legacy(source, size, _Budget(size))
            budget = _Budget(size)
            return _load(source, _builders(budget), budget)
    except (ModelError, CorruptDataError) as error:
        raise ModelError(f"{path} cannot be imported: {error}") from error
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise ModelError(f"{path} cannot be imported: the archive is damaged ({error})") from error
