"""safetensors bytes as a boundary: checked before they are believed, and the same bytes for the same content.

The library writes the header's metadata in an order that differs from process to process; here it is sorted.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize
from safetensors.numpy import save

from protocol.errors import BadInput

Array = NDArray[Any]

_HEADER_LIMIT = 4 << 20
_NAME_LIMIT = 300
"""Names end up in messages, logs and pages."""
_DIMENSIONS = 8
"""No weight has more; NumPy stops at 64."""
_METADATA = "__metadata__"
_FLOATS: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(np.uint16),
}
_SCALARS: dict[str, np.dtype[Any]] = {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "F64": np.dtype(np.float64)}
_NAMES = {"F64": "float64", "BOOL": "bool", "C64": "complex64"}


def write_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Deterministic safetensors bytes; ``metadata`` defaults to what loaders of PyTorch files ask for."""
    whole = {name: np.asarray(tensor, order="C") for name, tensor in sorted(tensors.items())}
    return with_metadata(bytes(save(whole)), metadata or {"format": "pt"})


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same tensors under other metadata, keys sorted, the header padded to 8 bytes as the format asks."""
    header = {name: entry for name, entry in _header(data, "file").items() if name != _METADATA}
    text = json.dumps({_METADATA: dict(sorted(metadata.items())), **header}, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + payload(data)


def read_metadata(data: bytes, what: str = "file") -> dict[str, str]:
    """The header's own metadata, empty when it has none.

    Raises:
        BadInput: not safetensors, or metadata that is not text.
    """
    metadata = _header(data, what).get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInput(f"The {what}'s metadata is not text.")
    return metadata


def payload(data: bytes) -> bytes:
    """All tensors' bytes, which is what follows the header."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 + length :]


def read_tensors(data: bytes, what: str) -> dict[str, Array]:
    """Every tensor by its name; bfloat16 comes back as float32, which holds it exactly.

    Raises:
        BadInput: not safetensors, a header that is too long, deep or ambiguous, another number format (a single
            number may have any), or values that are not finite.
    """
    for name in _header(data, what):
        _require_name(name, what)
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except Exception as error:  # the library's own exception type is not exported by every version
        raise BadInput(f"The {what} is no safetensors file.") from error
    return {name: _tensor(name, entry) for name, entry in entries}


def _tensor(name: str, entry: Mapping[str, Any]) -> Array:
    dtype, shape = entry["dtype"], entry["shape"]
    if len(shape) > _DIMENSIONS:
        raise BadInput(f"{name} has {len(shape)} dimensions; at most {_DIMENSIONS} are taken.")
    known = _FLOATS | _SCALARS if math.prod(shape) == 1 else _FLOATS
    if dtype not in known:
        told = _NAMES.get(dtype, dtype.replace("I", "int").replace("U", "uint"))
        raise BadInput(f"{name} is {told}; only float16, bfloat16 and float32 are taken.")
    tensor: Array = np.frombuffer(entry["data"], known[dtype]).reshape(shape)
    if dtype == "BF16":
        tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(tensor).all():
        raise BadInput(f"{name} holds values that are not finite.")
    return tensor


def _header(data: bytes, what: str) -> dict[str, Any]:
    """Refuse a header that is too long or no JSON object before anything is allocated by its word."""
    if len(data) < 8:
        raise BadInput(f"The {what} is no safetensors file.")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(_HEADER_LIMIT, len(data) - 8):
        raise BadInput(f"The {what}'s header is longer than the file or than {_HEADER_LIMIT} bytes.")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The {what}'s header is no JSON, or says a thing twice.") from error
    if not isinstance(header, dict):
        raise BadInput(f"The {what}'s header is no JSON object.")
    return header


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _require_name(name: str, what: str) -> None:
    if len(name) > _NAME_LIMIT or not name.isprintable():
        raise BadInput(f"The {what} has a tensor whose name is no plain text of at most {_NAME_LIMIT} characters.")
