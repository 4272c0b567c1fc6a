"""The merge of one layer: solve the regression mean, cut it to rank r in the data's metric, balance.

    ΔW = (Σ wᵢ Δᵢ Gᵢ)(Σ wᵢ Gᵢ + μ G₀ + λI)⁻¹          RegMean, Jin et al., ICLR 2023
    ΔW at rank r minimises ‖(ΔW − X) S^½‖        S the denominator: error where the layer's inputs really are

With the Cholesky factor S = L Lᵀ, ΔW L = N L⁻ᵀ: any square root of S serves the metric.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular

FloatArray = NDArray[np.float64]

_OVERSAMPLED = 32
_ITERATED_FROM = 4
"""A layer so many times as wide as what is kept of it is cut by iteration."""
_WON = 2e-3
_ROUNDING = 1e-13
_WELL_APART = 1e-4


@dataclass(frozen=True)
class Solved:
    """One layer's ΔW, cut in the data's metric: ΔW L ≈ U diag(s) Vᵀ, of which the ``cap`` largest are kept."""

    left: FloatArray  # U, (d_out, k)
    s: FloatArray  # (k,), falling
    right: FloatArray  # diag(s) Vᵀ L⁻¹, (k, d_in)
    energy: float  # ‖ΔW L‖²

    def tail(self, rank: int) -> float:
        """The share of ΔW's energy, in the data's metric, that rank ``rank`` drops."""
        if self.energy == 0.0:
            return 0.0
        return max(0.0, 1.0 - float(np.square(self.s[:rank]).sum()) / self.energy)

    def at_rank(self, rank: int) -> tuple[FloatArray, FloatArray]:
        """Balanced factors A (rank, d_in), B (d_out, rank); zero rows fill up what the layer has not."""
        kept = self.right[: min(rank, len(self.s))]
        squares, turn = np.linalg.eigh(kept @ kept.T)
        there = squares > _ROUNDING * max(squares[-1:], default=0.0)
        sigma, turn = np.sqrt(squares[there]), turn[:, there]
        a, b = np.zeros((rank, self.right.shape[1])), np.zeros((self.left.shape[0], rank))
        a[: len(sigma)] = (turn / np.sqrt(sigma)).T @ kept
        b[:, : len(sigma)] = self.left[:, : len(kept)] @ (turn * np.sqrt(sigma))
        return a, b

    def dense(self) -> FloatArray:
        """ΔW as far as it is kept, (d_out, d_in), for tests and small layers."""
        return self.left @ self.right


def solve(numerator: FloatArray, denominator: FloatArray, regularisation: float, cap: int | None = None) -> Solved:
    """Solve one layer.

    Args:
        numerator: Σ wᵢ Δᵢ Gᵢ, (d_out, d_in).
        denominator: Σ wᵢ Gᵢ, (d_in, d_in), positive semi-definite.
        regularisation: λ as a multiple of the denominator's mean diagonal, dimensionless.
        cap: the most directions that are kept; None keeps all.
    """
    return solve_in(root(denominator, regularisation), numerator, cap)


def solve_in(lower: FloatArray, numerator: FloatArray, cap: int | None = None) -> Solved:
    """The same where S = L Lᵀ is known by ``lower`` L, as layers that read one input share it."""
    n = len(lower)
    metric = solve_triangular(lower, numerator.T, lower=True).T
    left, scaled_right = _largest(metric, min(cap or n, *metric.shape))
    s = np.linalg.norm(scaled_right, axis=1)
    right = solve_triangular(lower, scaled_right.T, lower=True, trans="T").T
    return Solved(left, s, right, float(np.square(metric).sum()))


def mean(numerator: FloatArray, weight: float, cap: int | None = None) -> Solved:
    """The plain mean of one layer, Σ wᵢ Δᵢ (d_out, d_in) over Σ wᵢ: all directions of its input count alike."""
    root = np.sqrt(weight)
    metric = numerator / root
    left, scaled_right = _largest(metric, min(cap or min(metric.shape), *metric.shape))
    s = np.linalg.norm(scaled_right, axis=1)
    return Solved(left, s, scaled_right / root, float(np.square(metric).sum()))


def mean_of_factors(left: FloatArray, right: FloatArray, weight: float, cap: int) -> Solved:
    """The same from stacked factors, Σ wᵢ Δᵢ = left (d_out, k) @ right (k, d_in), without the product: k is small."""
    basis = _orthonormal(right.T)
    within = left @ (right @ basis) / np.sqrt(weight)
    squares, vectors = np.linalg.eigh(within.T @ within)
    there = np.flatnonzero(squares > _ROUNDING * squares[-1:])[::-1][:cap]
    s = np.sqrt(squares[there])
    moved = within @ vectors[:, there]
    scaled_right = (basis @ vectors[:, there]).T * (s / np.sqrt(weight))[:, None]
    return Solved(moved / s, s, scaled_right, float(np.square(within).sum()))


def root(denominator: FloatArray, regularisation: float) -> FloatArray:
    """L of S = L Lᵀ, S the denominator with λI."""
    lower: FloatArray = cholesky(ridged(denominator, regularisation), lower=True, overwrite_a=True)
    return lower


def ridged(denominator: FloatArray, regularisation: float) -> FloatArray:
    """The denominator with λI, λ a multiple of its mean diagonal."""
    n = len(denominator)
    whole = denominator.copy()
    whole[np.diag_indices(n)] += regularisation * np.trace(denominator) / n
    return whole


def least_rank(layers: list[Solved], tail: float, cap: int) -> int:
    """The least rank at which no layer drops more than ``tail`` of its energy, at most ``cap``."""
    return next((r for r in range(1, cap) if all(layer.tail(r) <= tail for layer in layers)), cap)


def _largest(metric: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """U (m, count) and diag(s) Vᵀ (count, n) of the largest singular values."""
    block = count + _OVERSAMPLED
    if _ITERATED_FROM * block > min(metric.shape):
        return _by_gram(metric, count)
    return _by_iteration(metric, count, block)


def _by_gram(metric: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """All at once, by the smaller Gram matrix.

    Squaring loses singular values below 10⁻⁸ of the largest; what is published is fp16.
    """
    wide = metric.shape[0] <= metric.shape[1]
    gram = metric @ metric.T if wide else metric.T @ metric
    size = len(gram)
    _, vectors = eigh(gram, subset_by_index=(size - count, size - 1))
    vectors = vectors[:, ::-1]
    if wide:
        return vectors, vectors.T @ metric
    moved = metric @ vectors
    norms = np.linalg.norm(moved, axis=0)
    safe = np.where(norms > 0, norms, 1.0)
    return moved / safe, norms[:, None] * vectors.T


def _by_iteration(metric: FloatArray, count: int, block: int) -> tuple[FloatArray, FloatArray]:
    """By subspace iteration (Halko, Martinsson & Tropp 2011) until a step wins next to nothing of what is left out.

    Where singular values lie so close that it is slow, one is as good as the other.
    """
    energy = float(np.square(metric).sum())
    seen = metric @ np.random.default_rng(block).standard_normal((metric.shape[1], block))
    captured = 0.0
    while True:
        basis = _orthonormal(seen)
        within = metric.T @ basis
        squares, vectors = np.linalg.eigh(within.T @ within)
        before, captured = captured, float(squares[-count:].sum())
        if captured - before <= _WON * max(0.0, energy - captured) or squares.sum() >= energy * (1 - _ROUNDING):
            break
        seen = metric @ within
    kept = vectors[:, : -count - 1 : -1]
    return basis @ kept, (within @ kept).T


def _orthonormal(columns: FloatArray) -> FloatArray:
    """An orthonormal basis of the columns, (n, k) with k « n, by the small Gram matrix; again where that loses bits."""
    for _ in range(2):
        squares, vectors = np.linalg.eigh(columns.T @ columns)
        there = squares > _ROUNDING * squares[-1:]
        columns = columns @ (vectors[:, there] / np.sqrt(squares[there]))
        if squares[0] > _WELL_APART * squares[-1]:
            break
    return columns
