"""One unit at work: everything that several rows rest on is made once, and what took long is kept in files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from bases.families import Base
from bases.nouns_art import NounsArt
from bases.statistics import draw as draw_statistics
from bases.statistics import recipe_of
from bench.quality.factors import Adapter
from bench.quality.peers import Federation
from bench.quality.second import second_statistics
from bench.quality.world import Member, World
from bench.quality.yardstick import Yardstick
from client.collection.example import Example
from client.training.engine import train
from client.training.options import TrainingOptions
from coordinator.distillation.distil import distil
from coordinator.distillation.lessons import draw_lessons
from merging.merge import Merged, MergeInput, merge, scaled_by
from protocol.adapter import Factors, dump_adapter, dump_statistics, load_adapter, load_statistics
from protocol.grant import RoundPlan

CENTRAL_RANK = RoundPlan().rank


@dataclass(frozen=True)
class Lab:
    """A unit's world, base and plan, and the folder of trained adapters."""

    base: Base
    art: NounsArt
    world: World
    plan: RoundPlan
    folder: Path

    @cached_property
    def yardstick(self) -> Yardstick:
        return Yardstick(self.base, self.art, self.world)

    @cached_property
    def federation(self) -> Federation:
        """For other people's rules."""
        return Federation(self.base, self.world.members, self.world.shares, self.plan)

    @cached_property
    def apart(self) -> list[dict[str, Factors]]:
        """Members' adapters after all their steps from one beginning, without drift penalty: one round of the peers."""
        return [
            self._kept(f"one-round-{number}", partial(self._one_round, member))
            for number, member in enumerate(self.world.members)
        ]

    @cached_property
    def own(self) -> list[dict[str, Factors]]:
        """Members' adapters as this engine trains them."""
        return [
            self._kept(f"own-{number}", partial(self._own, member)) for number, member in enumerate(self.world.members)
        ]

    @cached_property
    def contributions(self) -> list[MergeInput]:
        """The members' adapters with their statistics, weighed by images."""
        inputs = []
        for number, (member, adapter) in enumerate(zip(self.world.members, self.own, strict=True)):
            path = self.folder / f"statistics-{number}.safetensors"
            if not path.exists():
                drawn = draw_statistics(
                    self.base, adapter, captions_of(member), recipe_of(self.plan, captions_of(member))
                )
                _write(path, dump_statistics(drawn))
            inputs.append(MergeInput(member.name, len(member.examples), self._file(f"own-{number}"), path))
        return inputs

    @cached_property
    def merged(self) -> Merged:
        """The regression mean."""
        return merge(self.contributions, self.plan)

    @cached_property
    def collective(self) -> dict[str, Factors]:
        """The regression mean at its best gain: what the second pass looks through."""
        return scaled_by(self.merged.adapter, self.yardstick.best_gain(self.merged.adapter))

    def merged_again(self) -> Adapter:
        """The merge after a second pass over the statistics."""
        again = []
        for one, member, adapter in zip(self.contributions, self.world.members, self.own, strict=True):
            assert one.statistics
            first, path = load_statistics(one.statistics.read_bytes()), one.statistics.with_suffix(".second")
            second = second_statistics(self.base, adapter, first, captions_of(member), self.collective, self.plan)
            _write(path, dump_statistics(second))
            again.append(MergeInput(one.contribution_id, one.weight, one.adapter, path))
        return merge(again, self.plan).adapter

    def distilled(self) -> Adapter:
        """The regression mean after it learned to answer as the members' adapters do, as the coordinator has it."""
        lessons = [
            draw_lessons(self.base, adapter, captions_of(member), self.plan)
            for adapter, member in zip(self.own, self.world.members, strict=True)
        ]
        shares = [one.weight for one in self.contributions]
        return distil(self.base, self.merged.adapter, lessons, shares, self.plan)

    @property
    def everybodys_steps(self) -> int:
        """Those of all members together."""
        return sum(self.plan.sized(len(member.examples)).steps for member in self.world.members)

    def central(self, steps: int) -> Adapter:
        """One adapter on everybody's images after so many steps, the better with or without drift."""
        both = [
            self._kept(f"central-{steps}-{name}", partial(self._central, steps, drift))
            for name, drift in (("free", 0.0), ("held", self.plan.drift))
        ]
        return min(both, key=self.yardstick.choosing_loss)

    def _one_round(self, member: Member) -> dict[str, Factors]:
        return self.federation.local(member, self.plan.steps, "one round", self.federation.beginning)

    def _own(self, member: Member) -> dict[str, Factors]:
        plan = self.plan.model_copy(update={"seed": self.plan.seed_of(member.name)})
        return self._trained(member.examples, plan, TrainingOptions(rank=member.rank))

    def _central(self, steps: int, drift: float) -> dict[str, Factors]:
        changes = {"steps": steps, "drift": drift, "rank": CENTRAL_RANK, "growth_limit": 1.0}
        plan = self.plan.model_copy(update=changes)
        return self._trained(self.world.everyones, plan, TrainingOptions())

    def _trained(self, examples: Sequence[Example], plan: RoundPlan, options: TrainingOptions) -> dict[str, Factors]:
        return train(self.base, examples, plan, lambda progress: None, options=options).adapter

    def _kept(self, name: str, make: Callable[[], Adapter]) -> dict[str, Factors]:
        """The adapter as it is sent, in fp16, from its file if that is there."""
        path = self._file(name)
        if not path.exists():
            _write(path, dump_adapter(make()))
        return load_adapter(path.read_bytes())

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def captions_of(member: Member) -> list[str]:
    return [example.caption for example in member.examples]


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, so that a run that was cut goes on."""
    beside = path.with_suffix(".part")
    beside.write_bytes(data)
    beside.replace(path)
