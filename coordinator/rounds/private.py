"""The work of the state ``merging`` in the private modes: one mean of what was trained between fixed factors.

Nothing here measures a contribution: in ``secagg`` nobody sees one, in ``dp`` whatever was measured would be one more
release, without noise.
"""

from collections.abc import Mapping
from pathlib import Path

from coordinator.aggregation.private import Noise, discrete_gaussian, release
from coordinator.rounds.candidate import MEAN, Candidates
from merging.merge import Account, Merged
from protocol.canonical import canonical, sha256
from protocol.fixed_factors import FixedFactors
from protocol.grant import RoundPlan
from protocol.modes import FloatArray, IntArray
from protocol.update import load_update


def noised(
    updates: Mapping[str, Path], plan: RoundPlan, factors: FixedFactors, noise: Noise = discrete_gaussian
) -> Candidates:
    """The noised mean of salted updates, by contribution. Each call draws noise of its own.

    Everybody weighs the same, whatever the policy says: a weight would be that much more of a member in the sum.
    """
    numbers = (load_update(path.read_bytes(), factors.size) for _, path in sorted(updates.items()))
    mean = release(numbers, len(updates), plan.dp_terms, factors.size, noise)
    return _candidates(factors, mean, dict.fromkeys(updates, 1), None)


def opened(total: IntArray, weights: Mapping[str, int], plan: RoundPlan, factors: FixedFactors) -> Candidates:
    """The weighted mean of a secret sum; ``weights`` are the contributions' that are in it."""
    mean = plan.grid.value(total) / sum(weights.values())
    return _candidates(factors, mean, weights, commitment(total, weights))


def commitment(total: IntArray, weights: Mapping[str, int]) -> str:
    """SHA-256 over who is in the sum, with which weight, and the sum's whole numbers, little-endian."""
    return sha256(canonical(dict(weights)) + total.astype("<i8").tobytes())


def _candidates(
    factors: FixedFactors, mean: FloatArray, weights: Mapping[str, int], committed: str | None
) -> Candidates:
    accounts = {key: Account(norm=None, weight=weight, note="") for key, weight in sorted(weights.items())}
    merged = Merged(factors.adapter(mean), factors.rank, 0.0, committed, accounts)
    return Candidates(merged, first=MEAN)
