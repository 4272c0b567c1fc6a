"""How contributions lie to one another, in product space: ⟨Δᵢ, Δⱼ⟩ = Σ over layers of Σ (BᵢᵀBⱼ) ∘ (AᵢAⱼᵀ).

Distances between factors mean nothing (10³ B and 10⁻³ A are the same delta), those between products do. The products
of factors are exact (``exact``), so the matrix does not depend on threads. From ``SKETCH_FROM`` contributions on, each
delta is first projected from both sides, L Δ R, by random signs whose seed is drawn from the contributions
themselves: nobody who is yet to choose a delta knows the projection (Johnson & Lindenstrauss 1984; Achlioptas 2003).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merging.exact import FACTOR_BITS, Scaled, scaled
from protocol.adapter import Factors

FloatArray = NDArray[np.float64]

SKETCH_FROM = 200
SKETCH_SIDE = 16
_SKETCH_BITS = 22


def gram(adapters: Sequence[Mapping[str, Factors]], known: FloatArray | None = None) -> FloatArray:
    """(n, n) over all layers, exact products.

    ``known`` is the same with NaN in the rows and columns that are yet to be found; if there are none, nothing is read.
    """
    n = len(adapters)
    new = np.arange(n) if known is None else np.flatnonzero(np.isnan(np.diag(known)))
    if len(new) == 0 and known is not None:
        return known
    rows, columns = np.zeros((len(new), n)), np.zeros((n, len(new)))
    for layer in sorted(adapters[0]):
        factors = [one[layer] for one in adapters]
        every = _Stack.of(factors)
        some = every if len(new) == n else _Stack.of([factors[at] for at in new])
        products = _products(every, some)
        columns += _added_up(products, every, some)
        if len(new) < n:
            rows += _added_up(np.ascontiguousarray(products.T), some, every)
    total = np.zeros((n, n)) if known is None else known.copy()
    # A pair's two entries may differ in their last bit: each comes from the order in which all would be found at once.
    total[new] = rows
    total[:, new] = columns
    return total


def layer_gram(factors: Sequence[Factors]) -> FloatArray:
    """(n, n) of one layer."""
    every = _Stack.of(factors)
    return _added_up(_products(every, every), every, every)


def sketched_gram(adapters: Sequence[Mapping[str, Factors]], contribution_ids: Sequence[str]) -> FloatArray:
    """(n, n) from ``SKETCH_SIDE``² numbers a layer; unbiased, its error falls with the number of layers."""
    total = np.zeros((len(adapters), len(adapters)))
    for layer in sorted(adapters[0]):
        rng = np.random.default_rng(_seed(contribution_ids, layer))
        first = adapters[0][layer]
        left = rng.choice((-1.0, 1.0), size=(SKETCH_SIDE, first.b.shape[0]))
        right = rng.choice((-1.0, 1.0), size=(first.a.shape[1], SKETCH_SIDE))
        small = [_projected(one[layer], left, right) for one in adapters]
        rows = np.stack([one.integers for one in small])
        scale = np.ldexp(1.0, [one.exponent for one in small]) / SKETCH_SIDE
        total += (rows @ rows.T) * scale[:, None] * scale
    return total


class _Stack(NamedTuple):
    """Factors of contributions as whole numbers, row upon row: (k, d_out) and (k, d_in).

    ``starts``: where each one's rows begin; ``scale``: the power of two of its product.
    """

    left: FloatArray
    right: FloatArray
    starts: NDArray[np.int64]
    scale: FloatArray

    @classmethod
    def of(cls, factors: Sequence[Factors]) -> "_Stack":
        first, ends = factors[0], np.cumsum([0, *(one.rank for one in factors)])
        left, right = np.empty((ends[-1], len(first.b))), np.empty((ends[-1], first.a.shape[1]))
        scale = np.empty(len(factors))
        for at, one in enumerate(factors):
            rows = slice(ends[at], ends[at + 1])
            left[rows], right[rows] = one.b.T, one.a
            scale[at] = 2.0 ** (_round(left[rows]) + _round(right[rows]))
        return cls(left, right, ends[:-1], scale)


def _round(values: FloatArray) -> int:
    """To ``FACTOR_BITS`` bits, in place; the exponent (see ``exact.scaled``)."""
    whole, exponent = scaled(values, FACTOR_BITS)
    values[:] = whole
    return exponent


def _products(rows: _Stack, columns: _Stack) -> FloatArray:
    """(BᵢᵀBⱼ) ∘ (AᵢAⱼᵀ) for every pair, one block beside the other."""
    products: FloatArray = rows.left @ columns.left.T
    products *= rows.right @ columns.right.T
    return products


def _added_up(products: FloatArray, rows: _Stack, columns: _Stack) -> FloatArray:
    inner: FloatArray = np.add.reduceat(np.add.reduceat(products, rows.starts, axis=0), columns.starts, axis=1)
    inner *= rows.scale[:, None]
    inner *= columns.scale
    return inner


def _projected(factors: Factors, left: FloatArray, right: FloatArray) -> Scaled:
    """L B A R as SKETCH_SIDE² whole numbers, exact but for two roundings that no thread sees."""
    lb = scaled(left @ _added_exactly(factors.b), _SKETCH_BITS)
    ar = scaled(_added_exactly(factors.a) @ right, _SKETCH_BITS)
    product = scaled(lb.integers @ ar.integers, _SKETCH_BITS)
    return Scaled(product.integers.ravel(), lb.exponent + ar.exponent + product.exponent)


def _added_exactly(values: NDArray[np.floating]) -> FloatArray:
    """In fp64, of so few bits that sums of entries are exact: 40 in fp16 of whatever size."""
    if values.dtype == np.float16:
        return values.astype(np.float64)
    whole = _whole(values)
    return np.ldexp(whole.integers, whole.exponent)


def _seed(contribution_ids: Sequence[str], layer: str) -> int:
    text = "\n".join([*sorted(contribution_ids), layer])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _whole(values: NDArray[np.floating]) -> Scaled:
    return scaled(values.astype(np.float64), FACTOR_BITS)
