"""The ``dp`` mode: updates clipped, summed on a grid of whole numbers, covered by noise, divided by a public count.

    release = step · (Σᵢ clip(xᵢ) + N_ℤ(0, (σ C / step)²)) / count

Whose noise it is decides what is claimed. This is client-level central differential privacy: the coordinator sees each
update and adds the noise itself; what it publishes tells little of any one member's whole contribution. Neighbours are
two rounds that differ in one member's update being zero (zero-out adjacency, Kairouz et al. 2021): who takes part, and
how many, is public in a manifest anyway.

The noise is the discrete Gaussian (Canonne, Kamath, Steinke, NeurIPS 2020), drawn exactly from the operating system's
randomness by OpenDP. Sum and noise are whole numbers, so the low bits of a release tell nothing (Mironov, CCS 2012, on
noise in floating point). OpenDP also does the accounts, as ρ-zCDP: each release adds 1 / (2σ²) for every member whose
data went into it, and the total becomes (ε, δ). That is exact for the discrete Gaussian, and 4% to 11% above what the
continuous one would be given (Balle and Wang, ICML 2018).

Everything that is said of the updates must come out of the noised sum. A norm, a hash, a robust rule's verdict or a
held-out score beside it would be a release of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from protocol.errors import BadInput, NotAllowed
from protocol.modes import DpTerms, FloatArray, IntArray, PrivacySpent

Noise = Callable[[int, float], IntArray]
"""(size, standard deviation) → that many whole numbers."""


@dataclass(frozen=True)
class NoisyRelease:
    """One release in the accounts: what was added to the sum, over the clip, and whose data was in the sum.

    Whose *data*: a member who trained anew on the same tokens is the same member.
    """

    noise: float
    members: frozenset[str]


def discrete_gaussian(size: int, deviation: float) -> IntArray:
    """Independent draws from the discrete Gaussian, by OpenDP, from the operating system's randomness."""
    drawn: list[int] = _measurement(deviation)([0] * size)
    return np.array(drawn, np.int64)


def clipped_sum(updates: Iterable[FloatArray], terms: DpTerms, size: int) -> IntArray:
    """Σ clip(xᵢ) on the grid, (size,): no update moves it by more than ``terms.grid.radius``.

    Raises:
        BadInput: an update has another shape. Shapes are the round's, so this tells nothing.
    """
    total = np.zeros(size, np.int64)
    for update in updates:
        if update.shape != (size,):
            raise BadInput(f"An update has shape {update.shape}; the round's is ({size},).")
        total += terms.grid.whole(update)
    return total


def release(
    updates: Iterable[FloatArray], count: int, terms: DpTerms, size: int, noise: Noise = discrete_gaussian
) -> FloatArray:
    """The noised mean, (size,), in the updates' own unit. Each call draws anew: two releases never share noise.

    ``count`` is public: how many members the round was for, whatever they sent.

    Raises:
        BadInput: nobody to divide by, or an update of another shape.
    """
    if count < 1:
        raise BadInput("There is no contribution to merge.", "Ask for more contributions.")
    total = clipped_sum(updates, terms, size)
    total += noise(size, terms.noise * terms.grid.radius)
    return terms.grid.value(total) / count


def spent(history: Sequence[NoisyRelease], delta: float) -> PrivacySpent:
    """What all releases tell together of the member they tell most of.

    A removal is a release like any other: it adds to the account of all who stay, and nothing to that of who left.
    """
    worst = PrivacySpent(epsilon=0.0, epsilon_replaced=0.0, delta=delta, releases=0)
    for noises in set(accounts(history).values()):
        epsilon = epsilon_of(noises, delta)
        if epsilon > worst.epsilon:
            replaced = epsilon_of(noises, delta, sensitivity=2)
            worst = PrivacySpent(epsilon=epsilon, epsilon_replaced=replaced, delta=delta, releases=len(noises))
    return worst


def accounts(history: Sequence[NoisyRelease]) -> dict[str, tuple[float, ...]]:
    """By member: the noise of every release that its data went into, falling."""
    members = frozenset[str]().union(*(one.members for one in history))
    return {
        member: tuple(sorted((one.noise for one in history if member in one.members), reverse=True))
        for member in sorted(members)
    }


def require_budget(history: Sequence[NoisyRelease], following: NoisyRelease, delta: float, limit: float) -> None:
    """Whether one more release may be made.

    Raises:
        NotAllowed: it would tell more of a member than the policy's ε.
    """
    after = spent([*history, following], delta).epsilon
    if after > limit:
        raise NotAllowed(
            f"This release would bring a member to ε = {after:.2f}; the policy allows {limit:g}.",
            "Begin an epoch with other members, or add more noise.",
        )


def epsilon_of(noises: Sequence[float], delta: float, sensitivity: int = 1) -> float:
    """ε at ``delta`` of adaptive releases with these σ, whose sums one member moves by ``sensitivity`` clips."""
    if not noises:
        return 0.0
    import opendp.prelude as dp

    total = dp.c.make_composition([_measurement(noise * _ACCOUNT_UNIT) for noise in noises])
    converted: Any = dp.c.make_zCDP_to_approxDP(total)
    curve = converted.map(float(sensitivity * _ACCOUNT_UNIT))
    return float(curve.epsilon(delta))


_ACCOUNT_UNIT = 1 << 20
"""The clip in the steps that σ is scaled to; the account does not depend on it."""


@lru_cache(maxsize=64)
def _measurement(deviation: float) -> Any:
    """OpenDP's discrete Gaussian over whole vectors, in the Euclidean distance."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=dp.i64)), dp.l2_distance(T=dp.f64)
    return dp.m.make_gaussian(*space, scale=deviation)
