"""What is computed once and read again: tensors in files named by the hash of everything they come from.

A file is written beside its place and moved there, so a killed process leaves either all of it or nothing. A full disk
costs the cache only: what cannot be kept is computed again another time.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from protocol.canonical import canonical, sha256

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Cache:
    """Tensors made from one base, whose hash is ``base``; no folder means that nothing is kept."""

    folder: Path | None = None
    base: str = ""

    def kept(self, what: Mapping[str, Any], device: torch.device, make: Callable[[], Tensors]) -> Tensors:
        """What ``make`` returns, from the file if one is there. ``what`` (JSON values) must name all that it rests on.

        Which version made it counts too: another torch may encode otherwise.
        """
        if self.folder is None:
            return make()
        name = sha256(canonical({**what, "base": self.base, "torch": str(torch.__version__)}))
        path = self.folder / name[:2] / f"{name}.safetensors"
        with contextlib.suppress(OSError, SafetensorError):
            return _loaded(load_file(path, device=str(device)))
        tensors = make()
        with contextlib.suppress(OSError):
            replace_durably(path, save(_stored(tensors)))
        return tensors


def replace_durably(path: Path, data: bytes) -> None:
    """Write whole or not at all, and on the disk when this returns; OSError leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_CHANNELS_LAST = "@channels-last"


def _stored(tensors: Mapping[str, Tensor]) -> Tensors:
    """A file knows no memory order, but which one a convolution reads decides its last bits: so names tell."""
    stored = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu()
        last = plain.ndim == 4 and not plain.is_contiguous() and plain.is_contiguous(memory_format=torch.channels_last)
        stored[name + _CHANNELS_LAST * last] = (plain.permute(0, 2, 3, 1) if last else plain).contiguous()
    return stored


def _loaded(stored: Mapping[str, Tensor]) -> Tensors:
    """The inverse of ``_stored``."""
    return {
        name.removesuffix(_CHANNELS_LAST): tensor.permute(0, 3, 1, 2) if name.endswith(_CHANNELS_LAST) else tensor
        for name, tensor in stored.items()
    }
