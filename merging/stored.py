"""Adapters and statistics read from the disk tensor by tensor, by plain reads rather than a map of the whole file.

Mapped pages count as the process's memory for as long as the map stands: a thousand mapped files are gigabytes. Files
were checked whole when they arrived (``load_adapter``, ``load_statistics``).
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protocol.adapter import Array, Factors, Sketch, from_tensors, layers_of, tensor_names
from protocol.errors import ContributionRefused

_HEADER_LIMIT = 4 << 20
_TYPES = {"F16": np.float16, "F32": np.float32, "BF16": np.uint16, "F64": np.float64}


class _Place(NamedTuple):
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


Layout = Mapping[str, _Place]


class TensorFile:
    """A safetensors file whose tensors are read one at a time."""

    def __init__(self, path: Path) -> None:
        """Raises ContributionRefused when the file is no safetensors."""
        self._path = path
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > _HEADER_LIMIT:
                    raise ValueError(length)
                self.layout = _layout(file.read(length))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise ContributionRefused(f"{path.name} is no safetensors file.", "Fetch it again.") from error
        self._data = 8 + length

    def read(self, *names: str) -> list[Array]:
        """The tensors of these names, in fp16, fp32 or fp64 as they are stored; bfloat16 as fp32."""
        with self._path.open("rb", buffering=0) as file:
            return [_tensor(file.fileno(), self._data, self.layout[name]) for name in names]


class StoredAdapter(Mapping[str, Factors]):
    """An adapter's file as a mapping from layer to factors."""

    def __init__(self, path: Path) -> None:
        """Raises ContributionRefused when the file is no safetensors."""
        self._file = TensorFile(path)
        self._layers = _layers(self._file.layout)

    def __getitem__(self, layer: str) -> Factors:
        if layer not in self._layers:
            raise KeyError(layer)
        return from_tensors(layer, *self._file.read(*tensor_names(layer)))

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._layers))

    def __len__(self) -> int:
        return len(self._layers)


class StoredStatistics(Mapping[str, Sketch]):
    """A statistics file as a mapping from input group to sketch."""

    def __init__(self, path: Path) -> None:
        """Raises ContributionRefused when the file is no safetensors."""
        self._file = TensorFile(path)

    def __getitem__(self, group: str) -> Sketch:
        if group not in self:
            raise KeyError(group)
        factor, root = self._file.read(f"{group}.factor", f"{group}.diagonal")
        return Sketch(factor, np.square(root.astype(np.float64)))

    def __contains__(self, group: object) -> bool:
        return f"{group}.diagonal" in self._file.layout

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({name.rpartition(".")[0] for name in self._file.layout}))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _layout(header: bytes) -> Layout:
    """Names and places; one object for all files that are alike, since a thousand contributions mostly are."""
    entries = json.loads(header)
    return _one_layout(
        tuple(
            (name, _Place(one["dtype"], tuple(one["shape"]), *one["data_offsets"]))
            for name, one in sorted(entries.items())
            if name != "__metadata__"
        )
    )


@lru_cache(maxsize=256)
def _one_layout(entries: tuple[tuple[str, _Place], ...]) -> Layout:
    return _Shared(entries)


class _Shared(dict[str, _Place]):
    """A layout that hashes by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@lru_cache(maxsize=256)
def _layers(layout: Layout) -> frozenset[str]:
    return layers_of(layout)


def _tensor(descriptor: int, start: int, place: _Place) -> Array:
    data: Any = os.pread(descriptor, place.end - place.begin, start + place.begin)
    tensor: Array = np.frombuffer(data, _TYPES[place.kind]).reshape(place.shape)
    return (tensor.astype(np.uint32) << 16).view(np.float32) if place.kind == "BF16" else tensor
