"""Arithmetic on adapters: what federated rules do with factor pairs on their way to a mean."""

from collections.abc import Mapping, Sequence

import numpy as np

from protocol.adapter import Factors

Adapter = Mapping[str, Factors]


def cut(adapter: Adapter, rank: int) -> dict[str, Factors]:
    """The first ``rank`` rows of A and columns of B."""
    return {layer: Factors(f.a[:rank], f.b[:, :rank], f.kernel) for layer, f in adapter.items()}


def averaged(adapters: Sequence[Adapter], shares: Sequence[float]) -> dict[str, Factors]:
    """A and B averaged apart; lower ranks are filled up with zeros (HetLoRA, Cho et al. 2024)."""
    rank = max(f.rank for adapter in adapters for f in adapter.values())
    return {layer: _averaged([adapter[layer] for adapter in adapters], shares, rank) for layer in adapters[0]}


def stacked(adapters: Sequence[Adapter], shares: Sequence[float]) -> dict[str, Factors]:
    """Σ wᵢ Bᵢ Aᵢ exactly, at the sum of the ranks: [w₁B₁ … wₙBₙ] over [A₁; …; Aₙ]."""
    return {
        layer: Factors(
            np.concatenate([adapter[layer].a for adapter in adapters]),
            np.concatenate([w * adapter[layer].b for w, adapter in zip(shares, adapters, strict=True)], axis=1),
            first.kernel,
        )
        for layer, first in adapters[0].items()
    }


def truncated(adapter: Adapter, rank: int) -> dict[str, Factors]:
    """The best rank ``rank`` of every layer's dense delta, the largest directions first, balanced."""
    return {layer: _truncated(factors, rank) for layer, factors in adapter.items()}


def _averaged(pairs: Sequence[Factors], shares: Sequence[float], rank: int) -> Factors:
    a, b = np.zeros((rank, pairs[0].a.shape[1]), np.float32), np.zeros((pairs[0].b.shape[0], rank), np.float32)
    for share, one in zip(shares, pairs, strict=True):
        a[: one.rank] += share * one.a
        b[:, : one.rank] += share * one.b
    return Factors(a, b, pairs[0].kernel)


def _truncated(factors: Factors, rank: int) -> Factors:
    u, s, vt = np.linalg.svd(factors.b.astype(np.float64) @ factors.a.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    return Factors(a.astype(np.float32), b.astype(np.float32), factors.kernel)
