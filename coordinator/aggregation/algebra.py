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
        kept = min(rank, len(self.s))
        p, sigma, qt = np.linalg.svd(self.right[:kept], full_matrices=False)
        root = np.sqrt(sigma)
        a, b = np.zeros((rank, self.right.shape[1])), np.zeros((self.left.shape[0], rank))
        a[: len(root)] = root[:, None] * qt
        b[:, : len(root)] = self.left[:, :kept] @ p * root
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
    n = len(denominator)
    lower = cholesky(ridged(denominator, regularisation), lower=True)
    metric = solve_triangular(lower, numerator.T, lower=True).T
    left, scaled_right = _largest(metric, min(cap or n, *metric.shape))
    s = np.linalg.norm(scaled_right, axis=1)
    right = solve_triangular(lower, scaled_right.T, lower=True, trans="T").T
    return Solved(left, s, right, float(np.square(metric).sum()))


def ridged(denominator: FloatArray, regularisation: float) -> FloatArray:
    """The denominator with λI, λ a multiple of its mean diagonal."""
    n = len(denominator)
    whole: FloatArray = denominator + regularisation * np.trace(denominator) / n * np.eye(n)
    return whole


def least_rank(layers: list[Solved], tail: float, cap: int) -> int:
    """The least rank at which no layer drops more than ``tail`` of its energy, at most ``cap``."""
    return next((r for r in range(1, cap) if all(layer.tail(r) <= tail for layer in layers)), cap)


def _largest(metric: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """U (m, count) and diag(s) Vᵀ (count, n) of the largest singular values, by the smaller Gram matrix.

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
