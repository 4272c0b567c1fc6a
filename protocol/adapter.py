"""The adapter and its statistics as files: safetensors, diffusers' key names, alpha equal to rank, no pickle.

An adapter is, for each adapted layer, a pair A (r, d_in) and B (d_out, r) with Δ = B A; the scale α/r is
folded in, so that no reader can get it wrong. Convolutions keep their kernel in the file (A is
(r, c_in, k, k), B is (c_out, r, 1, 1)) and are flattened here.

Statistics are, for each group of layers that share one input, the second moment G = E[x xᵀ] of that input,
as low rank plus diagonal, F Fᵀ + diag(d), normalised to unit trace.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from protocol.errors import ContributionRefused

Array = NDArray[Any]

_PREFIX = "unet."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_FACTOR, _DIAGONAL = ".factor", ".diagonal"
_HEADER_LIMIT = 4 << 20
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
"""Ends of the names of adapted layers: attention, feed-forward, and the projections around them.

Which layers are adapted matters more than rank.
"""
TEXT_INPUT = "text"
"""The group of all layers that read the text encoder's output: one input for the whole UNet."""


@dataclass(frozen=True)
class Factors:
    """One layer's delta, Δ = B A: ``a`` (r, d_in), ``b`` (d_out, r), and the kernel if it is a convolution."""

    a: Array
    b: Array
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Sketch:
    """G ≈ F Fᵀ + diag(d) with unit trace: ``factor`` (n, k), ``diagonal`` (n,), both non-negative in effect."""

    factor: Array
    diagonal: Array

    def dense(self) -> Array:
        """(n, n) in fp64."""
        factor = self.factor.astype(np.float64)
        return factor @ factor.T + np.diag(self.diagonal.astype(np.float64))


Adapter = Mapping[str, Factors]
Statistics = Mapping[str, Sketch]


def input_group(layer: str) -> str:
    """Which statistics a layer reads: q, k and v of one self-attention share theirs, all text inputs are one."""
    parent, _, name = layer.rpartition(".")
    if name in ("to_k", "to_v") and parent.endswith("attn2"):
        return TEXT_INPUT
    if name in ("to_q", "to_k", "to_v"):
        return f"{parent}.input"
    return layer


def dump_adapter(adapter: Adapter, metadata: Mapping[str, str] | None = None) -> bytes:
    """Safetensors bytes in fp16, as ``load_lora_weights`` reads them. Layers are sorted, bytes are deterministic."""
    tensors: dict[str, Array] = {}
    for layer, factors in sorted(adapter.items()):
        d_out, r = factors.b.shape
        a, b = factors.a, factors.b
        if factors.kernel:
            a = a.reshape(r, -1, *factors.kernel)
            b = b.reshape(d_out, r, *(1 for _ in factors.kernel))
        tensors[_PREFIX + layer + _A] = np.ascontiguousarray(a, dtype=np.float16)
        tensors[_PREFIX + layer + _B] = np.ascontiguousarray(b, dtype=np.float16)
    return bytes(save(tensors, dict(metadata or {"format": "pt"})))


def load_adapter(data: bytes) -> dict[str, Factors]:
    """Read and check an adapter.

    Raises:
        ContributionRefused: not safetensors, unpaired or unknown keys, wrong shapes, not finite.
    """
    tensors = _tensors(data, "adapter")
    layers = {key.removeprefix(_PREFIX).removesuffix(_A) for key in tensors if key.endswith(_A)}
    expected = {f"{_PREFIX}{layer}{side}" for layer in layers for side in (_A, _B)}
    if not layers or set(tensors) != expected:
        strange = sorted(set(tensors) ^ expected)[:3]
        raise ContributionRefused(
            f"The adapter's keys are not pairs of lora_A and lora_B: {', '.join(strange) or 'there are none'}.",
            "Only plain LoRA is merged; DoRA, biases and alpha keys are not.",
        )
    return {layer: _factors(layer, tensors) for layer in sorted(layers)}


def dump_statistics(statistics: Statistics) -> bytes:
    """Safetensors bytes in fp16, groups sorted.

    Values are stored as square roots of shares of a unit trace, so fp16's range is enough for up to 10⁴ inputs.
    """
    tensors: dict[str, Array] = {}
    for group, sketch in sorted(statistics.items()):
        tensors[group + _FACTOR] = np.ascontiguousarray(sketch.factor, dtype=np.float16)
        tensors[group + _DIAGONAL] = np.ascontiguousarray(np.sqrt(sketch.diagonal), dtype=np.float16)
    return bytes(save(tensors, {"format": "pt"}))


def load_statistics(data: bytes) -> dict[str, Sketch]:
    """Read and check statistics.

    Raises:
        ContributionRefused: not safetensors, unpaired keys, wrong shapes, not finite, or trace far from one.
    """
    tensors = _tensors(data, "statistics")
    groups = {key.removesuffix(_DIAGONAL) for key in tensors if key.endswith(_DIAGONAL)}
    if set(tensors) != {group + side for group in groups for side in (_FACTOR, _DIAGONAL)}:
        raise ContributionRefused("The statistics' keys are not pairs of factor and diagonal.")
    return {group: _sketch(group, tensors) for group in sorted(groups)}


def _factors(layer: str, tensors: Mapping[str, Array]) -> Factors:
    a, b = tensors[_PREFIX + layer + _A], tensors[_PREFIX + layer + _B]
    kernel = tuple(int(n) for n in a.shape[2:])
    ranks_agree = a.ndim >= 2 and b.ndim == a.ndim and a.shape[0] == b.shape[1]
    if not ranks_agree or any(n != 1 for n in b.shape[2:]) or 0 in a.shape + b.shape:
        raise ContributionRefused(f"{layer}: shapes {a.shape} and {b.shape} are no LoRA pair.")
    return Factors(a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1), kernel)


def _sketch(group: str, tensors: Mapping[str, Array]) -> Sketch:
    factor, root = tensors[group + _FACTOR], tensors[group + _DIAGONAL]
    if factor.ndim != 2 or root.ndim != 1 or factor.shape[0] != root.shape[0]:
        raise ContributionRefused(f"{group}: shapes {factor.shape} and {root.shape} are no sketch.")
    diagonal = np.square(root.astype(np.float64))
    trace = float(np.square(factor.astype(np.float64)).sum() + diagonal.sum())
    if not 0.98 < trace < 1.02:
        raise ContributionRefused(
            f"{group}: the statistics' trace is {trace:.3g}, not 1.", "Statistics carry no weight of their own."
        )
    return Sketch(factor, diagonal)


def _tensors(data: bytes, what: str) -> dict[str, Array]:
    _check_header(data, what)
    try:
        tensors = load(data)
    except Exception as error:  # the library's own exception type is not exported by every version
        raise ContributionRefused(f"The {what} is no safetensors file.") from error
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ContributionRefused(f"{key} is {tensor.dtype}; only float16 and float32 are taken.")
        if not np.isfinite(tensor).all():
            raise ContributionRefused(f"{key} holds values that are not finite.")
    return dict(tensors)


def _check_header(data: bytes, what: str) -> None:
    """Refuse a header that is too long or no JSON object before anything is allocated by its word."""
    if len(data) < 8:
        raise ContributionRefused(f"The {what} is no safetensors file.")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(_HEADER_LIMIT, len(data) - 8):
        raise ContributionRefused(f"The {what}'s header is longer than the file or than {_HEADER_LIMIT} bytes.")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise ContributionRefused(f"The {what}'s header is no JSON.") from error
    if not isinstance(header, dict):
        raise ContributionRefused(f"The {what}'s header is no JSON object.")
