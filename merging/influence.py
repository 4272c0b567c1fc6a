"""What each contribution does to the collective: how far the merge moves without it, under the same weights.

    influence of j = ‖(ΔW − ΔW₋ⱼ) L‖ / ‖ΔW L‖        over all layers, S = L Lᵀ the metric of the data

With Nⱼ and Sⱼ what j added to numerator and denominator (its part of λ with it), ΔW S = N gives

    (ΔW − ΔW₋ⱼ) (S − Sⱼ) = Nⱼ − ΔW Sⱼ

so that nothing is summed anew: one Cholesky a contribution and input group. Of a layer of more than ``PROBES`` outputs
the norm is estimated from that many random combinations of them (Hutchinson 1990), over a UNet to about a hundredth.
Their seed is drawn from the sums themselves: nobody who is yet to choose a delta knows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from merging.algebra import root
from protocol.adapter import Factors

FloatArray = NDArray[np.float64]

MEASURED_UP_TO = 64
"""With more contributions than this, no single one's influence is measured."""
PROBES = 64


@dataclass(frozen=True)
class Part:
    """What one contribution added to a group: weight, what the clip left, its factors by layer, G = F Fᵀ + diag(d)."""

    weight: int
    share: float
    factors: Mapping[str, Factors]
    factor: FloatArray
    diagonal: FloatArray
    base: FloatArray | None = None
    """μ G₀, which comes to the denominator with every weight; None where the base has no word."""


@dataclass(frozen=True)
class Whole:
    """The layers of one input group, solved with everyone: Z ΔW and Z by layer, and S = L Lᵀ."""

    deltas: Mapping[str, FloatArray]
    probes: Mapping[str, FloatArray]
    lower: FloatArray
    metric: FloatArray
    regularisation: float

    @classmethod
    def of(
        cls, numerators: Mapping[str, FloatArray], denominator: FloatArray, regularisation: float, seed: int
    ) -> "Whole":
        """Solve every layer of the group without cutting its rank."""
        lower = root(denominator, regularisation)
        probes = {layer: _probes(len(total), seed) for layer, total in numerators.items()}
        deltas = {layer: _solved(probes[layer] @ total, lower) for layer, total in numerators.items()}
        return cls(deltas, probes, lower, lower @ lower.T, regularisation)

    def moved(self, part: Part) -> float:
        """‖(ΔW − ΔW₋ⱼ) L‖² over the group."""
        taken = part.weight * (part.factor @ part.factor.T)
        diagonal = np.diag_indices(len(taken))
        taken[diagonal] += part.weight * part.diagonal
        if part.base is not None:
            taken += part.weight * part.base
        taken[diagonal] += self.regularisation * np.trace(taken) / len(taken)
        rest = cholesky(self.metric - taken, lower=True, overwrite_a=True)
        total = 0.0
        for layer, delta in self.deltas.items():
            change = part.weight * part.share * self._through(layer, part) - delta @ taken
            total += float(np.square(_solved(change, rest) @ self.lower).sum())
        return total

    def _through(self, layer: str, part: Part) -> FloatArray:
        """Z Δⱼ Gⱼ."""
        factors = part.factors[layer]
        a = factors.a.astype(np.float64)
        through = (a @ part.factor) @ part.factor.T + a * part.diagonal
        found: FloatArray = (self.probes[layer] @ factors.b.astype(np.float64)) @ through
        return found


def _probes(outputs: int, seed: int) -> FloatArray:
    """Z (PROBES, outputs) with E[Zᵀ Z] = 1; of few outputs each for itself."""
    if outputs <= PROBES:
        return np.eye(outputs)
    signs: FloatArray = np.random.default_rng(seed).choice((-1.0, 1.0), size=(PROBES, outputs))
    signs /= np.sqrt(PROBES)
    return signs


def _solved(numerator: FloatArray, lower: FloatArray) -> FloatArray:
    half = solve_triangular(lower, numerator.T, lower=True)
    whole: FloatArray = solve_triangular(lower, half, lower=True, trans="T").T
    return whole
