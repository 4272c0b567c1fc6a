"""The merge of one layer: solve the regression mean, cut it to rank r in the data's metric, balance.

    ΔW = (Σ wᵢ Δᵢ Gᵢ)(Σ wᵢ Gᵢ + λI)⁻¹          RegMean, Jin et al., ICLR 2023
    ΔW at rank r minimises ‖(ΔW − X) S^½‖        S the denominator: error where the layer's inputs really are

With the Cholesky factor S = L Lᵀ, ΔW L = N L⁻ᵀ: any square root of S serves the metric.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from protocol.adapter import Factors

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Solved:
    """One layer's ΔW in the data's metric: ΔW L = U diag(s) Vᵀ, and L."""

    u: FloatArray  # (d_out, q)
    s: FloatArray  # (q,), falling
    vt: FloatArray  # (q, d_in)
    lower: FloatArray  # (d_in, d_in)

    def tail(self, rank: int) -> float:
        """The share of ΔW's energy, in the data's metric, that rank ``rank`` drops."""
        energy = np.square(self.s)
        whole = float(energy.sum())
        return float(energy[rank:].sum()) / whole if whole else 0.0

    def at_rank(self, rank: int) -> tuple[FloatArray, FloatArray]:
        """Balanced factors A (rank, d_in), B (d_out, rank); zero rows fill up what the layer has not."""
        kept = min(rank, len(self.s))
        right = solve_triangular(self.lower, (self.s[:kept, None] * self.vt[:kept]).T, lower=True, trans="T").T
        p, sigma, qt = np.linalg.svd(right, full_matrices=False)
        root = np.sqrt(sigma)
        a, b = np.zeros((rank, right.shape[1])), np.zeros((self.u.shape[0], rank))
        a[: len(root)] = root[:, None] * qt
        b[:, : len(root)] = self.u[:, :kept] @ p * root
        return a, b

    def dense(self) -> FloatArray:
        """ΔW itself, (d_out, d_in), for tests and small layers."""
        metric: FloatArray = (self.u * self.s @ self.vt).T
        whole: FloatArray = solve_triangular(self.lower, metric, lower=True, trans="T").T
        return whole


def solve(numerator: FloatArray, denominator: FloatArray, regularisation: float) -> Solved:
    """Solve one layer.

    Args:
        numerator: Σ wᵢ Δᵢ Gᵢ, (d_out, d_in).
        denominator: Σ wᵢ Gᵢ, (d_in, d_in), positive semi-definite.
        regularisation: λ as a multiple of the denominator's mean diagonal, dimensionless.
    """
    n = len(denominator)
    ridge = regularisation * np.trace(denominator) / n
    lower = cholesky(denominator + ridge * np.eye(n), lower=True)
    metric = solve_triangular(lower, numerator.T, lower=True).T
    u, s, vt = np.linalg.svd(metric, full_matrices=False)
    return Solved(u, s, vt, lower)


def least_rank(layers: list[Solved], tail: float, cap: int) -> int:
    """The least rank at which no layer drops more than ``tail`` of its energy, at most ``cap``."""
    return next((r for r in range(1, cap) if all(layer.tail(r) <= tail for layer in layers)), cap)


def squared_norm(factors: Factors) -> float:
    """‖B A‖² = ⟨BᵀB, A Aᵀ⟩, without the dense product."""
    a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
    return float(np.sum((b.T @ b) * (a @ a.T)))
