"""How long a run will take, from a few real steps on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bases import EMBEDDED_BASE
from bases.loading import load_base
from bases.nouns_art import NounsArt
from bench.quality.peers import ROUNDS, Federation
from bench.quality.rows import BY_STEPS, DISTILLED, OWN_BEST, OWN_MEAN, Row
from bench.quality.unit import Order
from bench.quality.world import CHOSEN_BY, TESTED, TRAINED, Unit, heads_of, make_world
from bench.quality.yardstick import draw
from client.training.scoring import fixed_noise_loss
from deploy.demo.measure import KNOWN, SAMPLING_STEPS
from deploy.demo.world import IMAGE_DATA
from protocol.grant import RoundPlan

GAINS_TRIED = 4
UNSEEN = 48
DRAWN_EACH_STATISTICS = 0.5
"""Of the time of a guided picture: statistics and lessons are drawn without guidance."""


@dataclass(frozen=True)
class Work:
    """Training ``steps``, pictures ``drawn`` with guidance, and ``looks``: one picture's loss at all noise levels."""

    steps: float
    drawn: float
    looks: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.steps + other.steps, self.drawn + other.drawn, self.looks + other.looks)

    def seconds(self, speed: "Speed") -> float:
        return self.steps * speed.step + self.drawn * speed.drawing + self.looks * speed.look


@dataclass(frozen=True)
class Speed:
    """Seconds of one training step, one drawn picture, one look, in one thread."""

    step: float
    drawing: float
    look: float


def work_of(unit: Unit, plan: RoundPlan, pictures: int, rows: Sequence[Row]) -> Work:
    """What these rows of a unit ask for; what several share counts once."""
    shares = [len(heads) for heads in heads_of(unit, range(UNSEEN))]
    each, owned = [plan.sized(TRAINED * heads) for heads in shares], sum(shares)
    everyone = sum(one.steps for one in each) / plan.steps
    drawn = DRAWN_EACH_STATISTICS * sum(one.statistics_pictures for one in each) * plan.drawing_steps / SAMPLING_STEPS
    total = Work(0, 0, 0)
    for row in rows:
        total += Work(plan.steps * row.lots(everyone), pictures, _looks(row, unit.members, owned))
        if row.name == DISTILLED:
            total += Work(plan.distillation_length(unit.members), drawn, 0)
    for shared in {row.needs for row in rows} - {None}:
        total += Work(plan.steps * everyone, drawn if shared == "own" else 0, 0)
    return total


def _looks(row: Row, members: int, owned: int) -> int:
    """Every model on every set once, and on the images that are chosen by as often as there is something to choose."""
    models = members if row.name == OWN_MEAN else 1
    tried = {OWN_BEST: members, BY_STEPS: (ROUNDS + 1) * GAINS_TRIED}
    choices = tried.get(row.name, GAINS_TRIED if row.tuned else 0)
    return models * (owned * (TESTED + TRAINED) + KNOWN) + choices * owned * CHOSEN_BY


def speed_of(plan: RoundPlan) -> Speed:
    """Measured here and now, in some seconds."""
    base, art = load_base(EMBEDDED_BASE), NounsArt.load(IMAGE_DATA)
    world = make_world(art, Unit(0, 4), 8)
    federation = Federation(base, world.members, world.shares, plan)
    federation.local(world.members[0], 1, "warm-up")
    short, long = (_timed(partial(federation.local, world.members[0], steps, "speed")) for steps in (2, 10))
    captions = [example.caption for example in world.tested[:8]]
    encoded = base.encode(world.tested[:16])
    return Speed(
        step=max(0.0, long - short) / 8,
        drawing=_timed(lambda: draw(base, captions)) / len(captions),
        look=_timed(lambda: fixed_noise_loss(base, encoded, 0)) / len(encoded.latents),
    )


def seconds_left(orders: Sequence[Order], speed: Speed, processes: int) -> float:
    """Wall-clock seconds, if every process has a core of its own."""
    each = [work_of(one.unit, one.plan, one.pictures, one.missing).seconds(speed) for one in orders]
    return max(sum(each) / processes, max(each, default=0.0))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
