"""How contributions lie to one another, in product space: ⟨Δᵢ, Δⱼ⟩ = Σ over layers of Σ (BᵢᵀBⱼ) ∘ (AᵢAⱼᵀ).

Distances between factors mean nothing (10³ B and 10⁻³ A are the same delta), those between products do. The products
of factors are exact (``exact``), so the matrix does not depend on threads. From ``SKETCH_FROM`` contributions on, each
delta is first projected from both sides, L Δ R, by random signs whose seed is drawn from the contributions
themselves: nobody who is yet to choose a delta knows the projection (Johnson & Lindenstrauss 1984; Achlioptas 2003).
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation.exact import FACTOR_BITS, Scaled, scaled
from protocol.adapter import Factors

FloatArray = NDArray[np.float64]

SKETCH_FROM = 200
SKETCH_SIDE = 16
_SKETCH_BITS = 22


def gram(adapters: Sequence[Mapping[str, Factors]]) -> FloatArray:
    """(n, n) over all layers, exact products."""
    total = np.zeros((len(adapters), len(adapters)))
    for layer in sorted(adapters[0]):
        total += layer_gram([one[layer] for one in adapters])
    return total


def layer_gram(factors: Sequence[Factors]) -> FloatArray:
    """(n, n) of one layer."""
    left, right = _stack([f.b.T for f in factors]), _stack([f.a for f in factors])
    products = (left @ left.T) * (right @ right.T)
    starts = np.cumsum([0, *(f.rank for f in factors[:-1])])
    rows: FloatArray = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    scale = np.ldexp(1.0, [_exponent(f) for f in factors])
    return rows * scale[:, None] * scale


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


def _projected(factors: Factors, left: FloatArray, right: FloatArray) -> Scaled:
    """L B A R as SKETCH_SIDE² whole numbers, exact but for two roundings that no thread sees."""
    b, a = (scaled(m.astype(np.float64), FACTOR_BITS) for m in (factors.b, factors.a))
    lb, ar = scaled(left @ b.integers, _SKETCH_BITS), scaled(a.integers @ right, _SKETCH_BITS)
    product = scaled(lb.integers @ ar.integers, _SKETCH_BITS)
    exponent = b.exponent + a.exponent + lb.exponent + ar.exponent + product.exponent
    return Scaled(product.integers.ravel(), exponent)


def _seed(contribution_ids: Sequence[str], layer: str) -> int:
    text = "\n".join([*sorted(contribution_ids), layer])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _stack(rows: Sequence[NDArray[np.floating]]) -> FloatArray:
    """Rows of all contributions as whole numbers, each contribution on its own power of two (see ``_exponent``)."""
    return np.concatenate([scaled(part.astype(np.float64), FACTOR_BITS).integers for part in rows])


def _exponent(factors: Factors) -> int:
    return sum(scaled(m.astype(np.float64), FACTOR_BITS).exponent for m in (factors.a, factors.b))
