"""Adapters and statistics read from the disk layer by layer, for merges of more than memory holds.

The files were checked whole when they arrived (``load_adapter``, ``load_statistics``); here they are mapped into
memory, and a tensor is copied only when it is asked for.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from protocol.adapter import Factors, Sketch, from_tensors, layers_of, sketch_from, tensor_names
from protocol.errors import ContributionRefused


class AdapterFile(Mapping[str, Factors]):
    """An adapter's file as a mapping from layer to factors."""

    def __init__(self, path: Path) -> None:
        """Raises ContributionRefused when the file is no safetensors."""
        self._file = _open(path)
        self._layers = layers_of(self._file.keys())

    def __getitem__(self, layer: str) -> Factors:
        if layer not in self._layers:
            raise KeyError(layer)
        a, b = (self._file.get_tensor(name) for name in tensor_names(layer))
        return from_tensors(layer, a, b)

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._layers))

    def __len__(self) -> int:
        return len(self._layers)


class StatisticsFile(Mapping[str, Sketch]):
    """A statistics file as a mapping from input group to sketch."""

    def __init__(self, path: Path) -> None:
        """Raises ContributionRefused when the file is no safetensors."""
        self._file = _open(path)
        self._groups = frozenset(key.rpartition(".")[0] for key in self._file.keys())  # noqa: SIM118 - no mapping

    def __getitem__(self, group: str) -> Sketch:
        if group not in self._groups:
            raise KeyError(group)
        return sketch_from(group, self._file.get_tensor(f"{group}.factor"), self._file.get_tensor(f"{group}.diagonal"))

    def __contains__(self, group: object) -> bool:
        return group in self._groups

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._groups))

    def __len__(self) -> int:
        return len(self._groups)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except Exception as error:  # the library's own exception type is not exported by every version
        raise ContributionRefused(f"{path.name} is no safetensors file.", "Fetch it again.") from error
