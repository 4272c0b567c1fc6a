"""Factors that are the same for all and never trained, so that a weighted sum of what is trained is the exact mean.

With one public A in each layer a member trains only B (FFA-LoRA, Sun et al., ICLR 2024), and Δ = B A is linear in B.
With B₀ and A₀ both public it trains only the core R between them (Fed-SB, Singhal et al. 2025): Δ = B₀ R A₀, r x r
numbers a layer, and the less is trained, the less noise ``dp`` adds. A's rows and B₀'s columns are orthonormal, so
‖Δ‖ = ‖B‖ or ‖R‖: a clip of what was trained is a clip in product space.

**Every machine draws the same bytes, because nothing is rounded.** A is r rows, picked at random, of H P₂ D₂ H P₁ D₁:
D random signs, P random permutations, H block-diagonal with Hadamard matrices of order 4^k over 2^k (after the
structured orthogonal features of Yu et al., NeurIPS 2016). Signs, permutations and rows come from SHAKE-256 over the
seed and the layer's name; entries are whole numbers up to 2^10 over a power of two, which fp64 adds and fp16 stores
without rounding. No logarithm, QR or BLAS is asked, and none can answer otherwise elsewhere. E[AᵀA] = (r / d) I.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from protocol.adapter import Array, Factors
from protocol.canonical import Document, canonical
from protocol.errors import ContributionRefused
from protocol.grant import RoundPlan
from protocol.modes import FloatArray, Learned

LARGEST_BLOCK = 4**5
"""Entries stay whole numbers up to 2^10 over a power of two: fp16 carries 11 bits."""
_STAGES = 2


class FixedLayer(Document):
    """An adapted layer as a matrix (d_out, d_in), and the kernel if it is a convolution."""

    name: Annotated[str, Field(min_length=1)]
    d_out: Annotated[int, Field(ge=1)]
    d_in: Annotated[int, Field(ge=1)]
    kernel: tuple[Annotated[int, Field(ge=1)], ...] = ()


class FixedFactors(Document):
    """All that a member and the coordinator must agree on before anything is trained; its hash binds an epoch."""

    seed: Annotated[str, Field(min_length=1)]
    """The epoch's; public."""
    learned: Learned
    rank: Annotated[int, Field(ge=1)]
    """In a layer narrower than that: the layer's width."""
    layers: Annotated[tuple[FixedLayer, ...], Field(min_length=1)]
    """Sorted by name: the order in which they follow each other in an update."""

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        names = [layer.name for layer in self.layers]
        if names != sorted(set(names)):
            raise ValueError("layers are not sorted by name, or one is named twice")
        return self

    @classmethod
    def of(cls, plan: RoundPlan, base_hash: str, shapes: Mapping[str, tuple[int, ...]]) -> "FixedFactors":
        """Those of a round: the epoch is its base. ``shapes`` are the adapted weights', kernels unfolded."""
        layers = (
            FixedLayer(name=name, d_out=shape[0], d_in=math.prod(shape[1:]), kernel=shape[2:])
            for name, shape in sorted(shapes.items())
        )
        return cls(seed=base_hash, learned=plan.learned, rank=plan.rank, layers=tuple(layers))

    @property
    def size(self) -> int:
        """How many numbers an update has."""
        return sum(m * n for _, (m, n) in self.shapes())

    def shapes(self) -> Iterator[tuple[FixedLayer, tuple[int, int]]]:
        """Each layer and the shape of what is trained in it: B (d_out, r) or R (r, r)."""
        for layer in self.layers:
            rank = self.rank_in(layer)
            yield layer, (layer.d_out if self.learned is Learned.B else rank, rank)

    def a(self, layer: FixedLayer) -> Array:
        """A or A₀, (r, d_in) fp16, rows orthonormal."""
        return orthonormal_rows(f"{self.seed}/{layer.name}/a", self.rank_in(layer), layer.d_in)

    def b(self, layer: FixedLayer) -> Array:
        """B₀, (d_out, r) fp16, columns orthonormal; only where the core is what is trained."""
        return orthonormal_rows(f"{self.seed}/{layer.name}/b", self.rank_in(layer), layer.d_out).T

    def flat(self, update: Mapping[str, Array]) -> FloatArray:
        """What was trained, by layer, as one vector (size,).

        Raises:
            ContributionRefused: other layers or shapes than these.
        """
        if strange := sorted(set(update) ^ {layer.name for layer in self.layers}):
            raise ContributionRefused(f"The update's layers are not the round's: {strange[0]} is in one only.")
        for layer, shape in self.shapes():
            if update[layer.name].shape != shape:
                raise ContributionRefused(f"{layer.name}: shape {update[layer.name].shape} is not the round's {shape}.")
        return np.concatenate([update[layer.name].astype(np.float64).ravel() for layer in self.layers])

    def by_layer(self, flat: FloatArray) -> dict[str, FloatArray]:
        """Invariant: ``by_layer(flat(update)) == update``."""
        if flat.shape != (self.size,):
            raise ContributionRefused(f"The update has shape {flat.shape}; the round's is ({self.size},).")
        parts: dict[str, FloatArray] = {}
        start = 0
        for layer, shape in self.shapes():
            end = start + shape[0] * shape[1]
            parts[layer.name], start = flat[start:end].reshape(shape), end
        return parts

    def adapter(self, flat: FloatArray) -> dict[str, Factors]:
        """The adapter that an update is: B and A, or B₀ R and A₀."""
        parts = self.by_layer(flat)
        return {layer.name: self._factors(layer, parts[layer.name]) for layer in self.layers}

    def _factors(self, layer: FixedLayer, part: FloatArray) -> Factors:
        left = part if self.learned is Learned.B else self.b(layer).astype(np.float64) @ part
        return Factors(self.a(layer), left, layer.kernel)

    def rank_in(self, layer: FixedLayer) -> int:
        """The plan's rank, or as much as the layer has room for."""
        narrowest = layer.d_in if self.learned is Learned.B else min(layer.d_in, layer.d_out)
        return min(self.rank, narrowest)


@lru_cache(maxsize=512)
def orthonormal_rows(name: str, rank: int, width: int) -> Array:
    """``rank`` orthonormal rows of length ``width``, fp16 without rounding; read-only.

    Invariant: those of a smaller rank are the first of these.
    """
    keys, signs = _drawn(name, width)
    rows = np.zeros((rank, width))
    rows[np.arange(rank), np.argsort(keys[0], kind="stable")[:rank]] = 1.0
    for order, sign in zip(keys[1:], signs, strict=True):
        rows = _hadamard((rows * sign)[:, np.argsort(order, kind="stable")])
    exact: Array = rows.astype(np.float16)
    exact.flags.writeable = False
    return exact


def _drawn(name: str, width: int) -> tuple[NDArray[np.uint64], FloatArray]:
    """Sort keys (1 + stages, width) for rows and permutations, and signs ±1 (stages, width), from SHAKE-256."""
    stream = hashlib.shake_256(canonical(["coterie fixed factors 1", name, width]))
    drawn = stream.digest((1 + _STAGES) * width * 8 + _STAGES * width)
    keys = np.frombuffer(drawn, "<u8", (1 + _STAGES) * width).reshape(1 + _STAGES, width)
    bits = np.frombuffer(drawn, np.uint8, offset=keys.nbytes).reshape(_STAGES, width) & 1
    return keys.astype(np.uint64), 1.0 - 2.0 * bits.astype(np.float64)


def _hadamard(rows: FloatArray) -> FloatArray:
    """Each block of columns times its Hadamard matrix over the root of its order: orthogonal."""
    return np.concatenate([_walsh(rows[:, start:end]) for start, end in _blocks(rows.shape[1])], axis=1)


def _walsh(block: FloatArray) -> FloatArray:
    """Fast Walsh-Hadamard transform of rows whose length is a power of 4, scaled to keep their length."""
    count, size = block.shape
    half = 1
    while half < size:
        pairs = block.reshape(count, -1, 2, half)
        left, right = pairs[:, :, 0], pairs[:, :, 1]
        block = np.stack([left + right, left - right], axis=2).reshape(count, size)
        half *= 2
    scaled: FloatArray = block / math.isqrt(size)
    return scaled


def _blocks(width: int) -> Iterator[tuple[int, int]]:
    """``width`` columns in blocks of the largest powers of 4."""
    start, size = 0, LARGEST_BLOCK
    while start < width:
        while size > width - start:
            size //= 4
        yield start, start + size
        start += size
