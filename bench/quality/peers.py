"""Other people's federated rules, each after its paper, over the client's own training step.

Members train without a drift penalty, as the papers do, and by a cosine in every round. Where a rule needs it, all
begin from one and the same A. Shares are by images. In all of them a member makes as many steps in total as this engine
has it make.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bases.families import Base
from bench.quality.factors import Adapter, averaged, cut, stacked, truncated
from bench.quality.world import Member
from client.training.batches import Batches, Bucket, buckets_of
from client.training.cache import Cache
from client.training.descent import NAME, Descent, adapting
from client.training.drift import adapted_pairs
from client.training.options import TrainingOptions
from merging.merge import scaled_by
from protocol.adapter import Factors
from protocol.grant import RoundPlan

ROUNDS = 4


@dataclass(frozen=True)
class Federation:
    """The members and how they train. ``shares`` sum to one."""

    base: Base
    members: Sequence[Member]
    shares: Sequence[float]
    plan: RoundPlan

    def everyone(
        self, steps: int, key: str, start: Adapter | None = None, frozen_a: bool = False
    ) -> list[dict[str, Factors]]:
        """Every member's adapter after so many steps from ``start``, or from a fresh adapter of its own."""
        return [self.local(member, steps, key, start, frozen_a) for member in self.members]

    def local(
        self, member: Member, steps: int, key: str, start: Adapter | None = None, frozen_a: bool = False
    ) -> dict[str, Factors]:
        """One member's adapter; ``key`` names the round, so that every round draws other batches.

        ``steps`` are those of a member of the usual size.
        """
        seed = self.plan.seed_of(f"{member.name}, {key}")
        plan = self.plan.model_copy(update={"steps": steps, "drift": 0.0, "seed": seed}).sized(len(member.examples))
        options = TrainingOptions(rank=member.rank)
        with adapting(self.base, plan, options):
            pairs = adapted_pairs(self.base, NAME)
            if start is not None:
                _place(pairs, start)
            if frozen_a:
                for a, _ in pairs.values():
                    a.requires_grad_(False)
            batches = Batches(self.base, self._buckets[member.name], plan)
            descent = Descent(self.base, batches, plan, options, None)
            while descent.done < plan.steps:
                descent.step()
            return descent.factors()

    @property
    def rank(self) -> int:
        """The highest that anyone trains at."""
        return max(member.rank or self.plan.rank for member in self.members)

    @cached_property
    def beginning(self) -> dict[str, Factors]:
        """The adapter that a server sends out first: A by chance, B zero."""
        with adapting(self.base, self.plan.model_copy(update={"rank": self.rank}), TrainingOptions()):
            pairs = adapted_pairs(self.base, NAME)
            return {layer: _factors(a, b) for layer, (a, b) in sorted(pairs.items())}

    @cached_property
    def _buckets(self) -> dict[str, list[Bucket]]:
        """By member: everything encoded, once for all rounds of all rules."""
        return {m.name: buckets_of(self.base, m.examples, self.plan, Cache()) for m in self.members}


def average_in_rounds(federation: Federation) -> dict[str, Factors]:
    """A and B averaged apart in every round: FedAvg of LoRA (FedIT, Zhang et al. 2024; Flower's examples)."""
    told = federation.beginning
    for number, steps in _rounds(federation):
        told = averaged(federation.everyone(steps, f"averaging {number}", told), federation.shares)
    return told


def flexlora_in_rounds(federation: Federation) -> dict[str, Factors]:
    """The dense mean, back to the members' ranks by SVD in every round (FlexLoRA, Bai et al. 2024)."""
    told = federation.beginning
    for number, steps in _rounds(federation):
        mean = stacked(federation.everyone(steps, f"flexlora {number}", told), federation.shares)
        told = truncated(mean, federation.rank)
    return told


def ffa_in_rounds(federation: Federation) -> dict[str, Factors]:
    """A is frozen and everybody's, so that the mean of B is exact (FFA-LoRA, Sun et al. 2024)."""
    told = federation.beginning
    for number, steps in _rounds(federation):
        told = averaged(federation.everyone(steps, f"ffa {number}", told, frozen_a=True), federation.shares)
        told = {layer: Factors(federation.beginning[layer].a, f.b, f.kernel) for layer, f in told.items()}
    return told


def stacking_in_rounds(
    federation: Federation, step_of: Callable[[Adapter, Adapter], float] = lambda so_far, new: 1.0
) -> dict[str, Factors]:
    """The exact mean folded into the base's weights, then new adapters from zero (FLoRA, Wang et al. 2024).

    ``step_of`` gets what is folded in so far and the new mean, and says what to multiply the mean by: a server's step
    (Reddi et al. 2021), which the paper has not.
    """
    folded: dict[str, Factors] = {}
    for number, steps in _rounds(federation):
        with federation.base.under(folded):
            new = stacked(federation.everyone(steps, f"stacking {number}"), federation.shares)
        new = scaled_by(new, step_of(folded, new))
        folded = stacked([folded, new], [1.0, 1.0]) if folded else new
    return folded


def in_parts(steps: int, rounds: int) -> list[int]:
    """``steps`` in ``rounds`` parts, as even as can be; none is empty unless there are fewer steps than rounds."""
    return [steps // rounds + (number < steps % rounds) for number in range(rounds)]


def _rounds(federation: Federation) -> list[tuple[int, int]]:
    return list(enumerate(in_parts(federation.plan.steps, ROUNDS)))


def _place(pairs: Mapping[str, tuple[Tensor, Tensor]], start: Adapter) -> None:
    """Put ``start``, cut to their rank, in the place of the live factors."""
    rank = len(next(iter(pairs.values()))[0])
    with torch.no_grad():
        for layer, factors in cut(start, rank).items():
            for live, value in zip(pairs[layer], (factors.a, factors.b), strict=True):
                live.copy_(torch.from_numpy(value).reshape(live.shape))


def _factors(a: Tensor, b: Tensor) -> Factors:
    flat_a, flat_b = (m.detach().cpu().flatten(1).numpy().copy() for m in (a, b))
    return Factors(flat_a, flat_b, tuple(a.shape[2:]))
