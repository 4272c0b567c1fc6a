"""The adapter and its statistics as files: safetensors, diffusers' key names, alpha equal to rank, no pickle.

An adapter is, for each adapted layer, a pair A (r, d_in) and B (d_out, r) with Δ = B A; the scale α/r is
folded in, so that no reader can get it wrong. Convolutions keep their kernel in the file (A is
(r, c_in, k, k), B is (c_out, r, 1, 1)) and are flattened here.

A layer is named as the module that it is in the UNet; a layer of any other part of the pipeline has that part's name
before it (``transformer.transformer_blocks.0.attn.to_q``).

Statistics are, for each group of layers that share one input, the second moment G = E[x xᵀ] of that input,
as low rank plus diagonal, F Fᵀ + diag(d), normalised to unit trace.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from protocol.errors import BadInput, ContributionRefused
from protocol.tensor_file import Array as Array
from protocol.tensor_file import read_tensors, write_tensors

_UNET = "unet"
_OTHERS = ("transformer", "text_encoder", "text_encoder_2")
_A, _B = ".lora_A.weight", ".lora_B.weight"
_FACTOR, _DIAGONAL = ".factor", ".diagonal"
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
"""Ends of the names of adapted layers: attention, feed-forward, and the projections around them.

Which layers are adapted matters more than rank.
"""
ADAPTED_IN_TRANSFORMER = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)
"""The same of a transformer that picture and text go through side by side."""
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
    """Which statistics a layer reads.

    q, k and v of one attention share theirs, on the text's side of a transformer too; all of a UNet's text inputs are
    one. A transformer's ``attn2`` is a second attention of the picture to itself (SD 3.5).
    """
    parent, _, name = layer.rpartition(".")
    if name in ("to_k", "to_v") and parent.endswith("attn2") and component_of(layer)[0] == _UNET:
        return TEXT_INPUT
    if name in ("to_q", "to_k", "to_v"):
        return f"{parent}.input"
    if name in ("add_q_proj", "add_k_proj", "add_v_proj"):
        return f"{parent}.context"
    return layer


def component_of(layer: str) -> tuple[str, str]:
    """The part of the pipeline that a layer is in, and its module there: ``unet`` where the name says no other."""
    first, _, rest = layer.partition(".")
    return (first, rest) if first in _OTHERS else (_UNET, layer)


def layer_in(component: str, module: str) -> str:
    """A module's name in an adapter. Invariant: ``component_of(layer_in(c, m)) == (c, m)``."""
    return module if component == _UNET else f"{component}.{module}"


def dump_adapter(adapter: Adapter, metadata: Mapping[str, str] | None = None) -> bytes:
    """Safetensors bytes in fp16, as ``load_lora_weights`` reads them. Layers are sorted, bytes are deterministic."""
    tensors: dict[str, Array] = {}
    for layer, factors in adapter.items():
        tensors |= zip(tensor_names(layer), as_tensors(factors), strict=True)
    return write_tensors(tensors, metadata)


def load_adapter(data: bytes) -> dict[str, Factors]:
    """Read and check an adapter.

    Raises:
        ContributionRefused: not safetensors, unpaired or unknown keys, wrong shapes, not finite.
    """
    tensors = _tensors(data, "adapter")
    layers = layers_of(tensors)
    expected = {name for layer in layers for name in tensor_names(layer)}
    if not layers or set(tensors) != expected:
        strange = sorted(set(tensors) ^ expected)[:3]
        raise ContributionRefused(
            f"The adapter's keys are not pairs of lora_A and lora_B: {', '.join(strange) or 'there are none'}.",
            "Only plain LoRA is merged; DoRA, biases and alpha keys are not.",
        )
    return {layer: from_tensors(layer, *(tensors[name] for name in tensor_names(layer))) for layer in sorted(layers)}


def layers_of(names: Iterable[str]) -> frozenset[str]:
    """The layers that a file with tensors of these names adapts."""
    return frozenset(name.removeprefix(f"{_UNET}.").removesuffix(_A) for name in names if name.endswith(_A))


def tensor_names(layer: str) -> tuple[str, str]:
    """What A and B are called in the file, where every layer has its part of the pipeline before it."""
    key = ".".join(component_of(layer))
    return key + _A, key + _B


def as_tensors(factors: Factors) -> tuple[Array, Array]:
    """A (r, d_in) or (r, c_in, k, k) and B (d_out, r) or (d_out, r, 1, 1), fp16, as every LoRA file has them."""
    (d_out, r), a, b = factors.b.shape, factors.a, factors.b
    if factors.kernel:
        a = a.reshape(r, -1, *factors.kernel)
        b = b.reshape(d_out, r, *(1 for _ in factors.kernel))
    return a.astype(np.float16), b.astype(np.float16)


def from_tensors(layer: str, a: Array, b: Array) -> Factors:
    """The pair that two tensors of a file are.

    Raises:
        ContributionRefused: their shapes are no LoRA pair's.
    """
    kernel = tuple(int(n) for n in a.shape[2:])
    ranks_agree = a.ndim >= 2 and b.ndim == a.ndim and a.shape[0] == b.shape[1]
    if not ranks_agree or any(n != 1 for n in b.shape[2:]) or 0 in a.shape + b.shape:
        raise ContributionRefused(f"{layer}: shapes {a.shape} and {b.shape} are no LoRA pair.")
    return Factors(a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1), kernel)


def dump_statistics(statistics: Statistics) -> bytes:
    """Safetensors bytes in fp16, groups sorted.

    Values are stored as square roots of shares of a unit trace, so fp16's range is enough for up to 10⁴ inputs.
    """
    tensors: dict[str, Array] = {}
    for group, sketch in sorted(statistics.items()):
        tensors[group + _FACTOR] = np.ascontiguousarray(sketch.factor, dtype=np.float16)
        tensors[group + _DIAGONAL] = np.ascontiguousarray(np.sqrt(sketch.diagonal), dtype=np.float16)
    return write_tensors(tensors)


def load_statistics(data: bytes) -> dict[str, Sketch]:
    """Read and check statistics.

    Raises:
        ContributionRefused: not safetensors, unpaired keys, wrong shapes, not finite, or trace far from one.
    """
    tensors = _tensors(data, "statistics")
    groups = {key.removesuffix(_DIAGONAL) for key in tensors if key.endswith(_DIAGONAL)}
    if set(tensors) != {group + side for group in groups for side in (_FACTOR, _DIAGONAL)}:
        raise ContributionRefused("The statistics' keys are not pairs of factor and diagonal.")
    return {g: sketch_from(g, tensors[g + _FACTOR], tensors[g + _DIAGONAL]) for g in sorted(groups)}


def sketch_from(group: str, factor: Array, root: Array) -> Sketch:
    """The sketch that two tensors of a file are: ``factor`` (n, k) and the square root of the diagonal (n,).

    Raises:
        ContributionRefused: they are no sketch of unit trace.
    """
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
    try:
        return read_tensors(data, what)
    except BadInput as problem:
        raise ContributionRefused(problem.message, problem.hint) from problem
