"""Records that the restricted reader of pickles builds besides plain containers.

Records stand for tensors, numpy scalars and objects of the official networks. Their sizes are checked before
memory is allocated. Each function here replaces one name in a public file; none executes code from the file.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import ModelError

__all__ = ["Attributes", "Persistent", "Storage", "TensorRecord"]

DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# numbers of numpy that the networks' attributes are made of: type code → struct's
NUMPY_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "u1": "B", "b1": "?"}
MAX_AXES = 8


class Attributes(dict[str, Any]):
    """The attributes of an `argparse.Namespace`."""


@dataclass(frozen=True, slots=True)
class Persistent:
    """Class name and attributes of an object of the official networks, without its source code."""

    class_name: str
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dtype:
    """A type code of numpy."""

    code: str


@dataclass(slots=True)
class Storage:
    """Memory that tensors refer to.

    Attributes:
        dtype: type of the elements.
        numel: number of elements.
        data: bytes of the elements, little-endian; None until read.
    """

    dtype: torch.dtype
    numel: int
    data: bytes | None = None

    @property
    def num_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """Description of a tensor in the file: a view into a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """Return the tensor, on the CPU, with its own memory."""
        if self.storage.data is None:
            raise ModelError("a tensor's values are missing from the file: it is cut short")
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        flat = torch.frombuffer(bytearray(self.storage.data), dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


def plain_key(value: Any) -> Any:
    """Return `value` if it is a valid dictionary key: text or a number."""
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise ModelError(f"a {type(value).__name__} is used as a key; expected text or a number")


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and value >= 0 for value in values):
        raise ModelError("a tensor's shape or stride is not made of numbers of at least 0")
    if len(values) > MAX_AXES:
        raise ModelError(f"a tensor has {len(values)} axes; expected at most {MAX_AXES}")
    return tuple(values)


def new_size(values: Any = ()) -> tuple[int, ...]:
    """``torch.Size``."""
    return _sizes(values)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRecord:
    """``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise ModelError("a tensor does not say where its values are")
    shape, stride = _sizes(shape), _sizes(stride)
    numel = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=False))
    if len(shape) != len(stride) or numel > storage.numel or (numel and last >= storage.numel):
        raise ModelError(
            f"a tensor of shape {shape}, stride {stride}, asks for more than the {storage.numel:,} values "
            "that are stored for it"
        )
    return TensorRecord(storage, offset, shape, stride)


def rebuild_parameter(data: Any, *_: Any) -> TensorRecord:
    """``torch._utils._rebuild_parameter``."""
    if not isinstance(data, TensorRecord):
        raise ModelError("a parameter is not a tensor")
    return data


def reconstruct_persistent(meta: Any) -> Persistent:
    """``torch_utils.persistence._reconstruct_persistent_obj``, without the object's source code."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise ModelError("an object of the network does not describe itself as the official ones do")
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise ModelError("an object of the network has no class name or no attributes")
    return Persistent(name, state)


def new_dict(pairs: Any = ()) -> dict[Any, Any]:
    """``collections.OrderedDict`` and ``dict``."""
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(p, list | tuple) and len(p) == 2 for p in pairs
    ):
        raise ModelError("a dictionary is not made of pairs")
    return {plain_key(key): value for key, value in pairs}


def new_namespace() -> Attributes:
    """``argparse.Namespace``; its attributes follow."""
    return Attributes()


def new_set(values: Any = ()) -> set[Any]:
    """``set``."""
    if not isinstance(values, list | tuple | set | frozenset):
        raise ModelError("a set is not made of values")
    return {plain_key(value) for value in values}


def no_bytes() -> bytes:
    """``bytes`` without arguments, the form of empty bytes in protocol 2."""
    return b""


def encode(text: Any, encoding: Any) -> bytes:
    """``_codecs.encode``, the form of bytes in protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ModelError("bytes are written in an unknown encoding")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ModelError("bytes are written as characters that are none") from error


def numpy_dtype(code: Any, *_: Any) -> Dtype:
    """``numpy.dtype``."""
    if not isinstance(code, str) or code not in NUMPY_SCALARS:
        raise ModelError("a number of numpy has a type other than float, int or bool")
    return Dtype(code)


def numpy_scalar(dtype: Any, data: Any) -> Any:
    """``numpy.core.multiarray.scalar``."""
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes):
        raise ModelError("a number of numpy is not written as one")
    layout = "<" + NUMPY_SCALARS[dtype.code]
    if struct.calcsize(layout) != len(data):
        raise ModelError("a number of numpy has the wrong number of bytes")
    return struct.unpack(layout, data)[0]
