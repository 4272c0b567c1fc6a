"""One unit from its first row to its last: what is done is on the disk after every row, so it may be cut anywhere."""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from bases import EMBEDDED_BASE
from bases.loading import load_base
from bases.nouns_art import NounsArt
from bench.bases import quiet
from bench.quality.lab import Lab
from bench.quality.rows import ROWS, Row
from bench.quality.world import RANKS, Unit, make_world
from bench.quality.yardstick import Figures, Pictures
from client.training.timing import use_threads
from deploy.demo.world import IMAGE_DATA
from protocol.grant import RoundPlan

RESULTS = "results.json"
AFTER_TRAINING = (
    *("regularisation", "tail", "release_rank", "distillation_steps", "distillation_limit", "distillation_rate"),
    *("gains", "quorum", "deadline_seconds"),
)
"""Fields of the plan that no member's training depends on."""


@dataclass(frozen=True)
class Order:
    """What to do with a unit, and where everything that it leaves lies."""

    unit: Unit
    plan: RoundPlan
    pictures: int
    rows: tuple[str, ...]
    out: Path

    @property
    def folder(self) -> Path:
        """Of the rows; another plan is another folder."""
        return self.out / f"{self.unit.name}-{self.pictures}-{self.plan.digest()[:8]}"

    @property
    def trained(self) -> Path:
        """Of trained adapters: plans that differ only in what comes after training share it."""
        defaults = {name: RoundPlan.model_fields[name].default for name in AFTER_TRAINING}
        return self.out / "trained" / f"{self.unit.name}-{self.plan.model_copy(update=defaults).digest()[:8]}"

    @property
    def missing(self) -> list[Row]:
        """What is still to do."""
        done = read_results(self.folder)
        return [row for row in ROWS if row.name in self.rows and row.name not in done]


def plan_of(unit: Unit, plan: RoundPlan) -> RoundPlan:
    """The unit's own plan: its seed, and as high a rank as any of its members has."""
    rank = max(RANKS) if unit.scenario == "mixed-rank" else plan.rank
    return plan.model_copy(update={"seed": unit.seed, "rank": rank})


def forget(order: Order, rows: Collection[str] | None = None) -> None:
    """Drop the results of these rows, or everything, trained adapters too."""
    if rows is None:
        for folder in (order.folder, order.trained):
            shutil.rmtree(folder, ignore_errors=True)
        return
    _write_results(order.folder, {n: f for n, f in read_results(order.folder).items() if n not in rows})


def run(order: Order) -> dict[str, Figures]:
    """Every missing row, each written down when it is done; all of the unit's figures."""
    use_threads(1)
    quiet()
    art = NounsArt.load(IMAGE_DATA)
    for folder in (order.folder, order.trained):
        folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(order.unit, order.plan)
    lab = Lab(load_base(EMBEDDED_BASE), art, make_world(art, order.unit, order.pictures), plan, order.trained)
    for row in order.missing:
        figures, pictures = measure(lab, row)
        np.save(order.folder / f"drawn-{row.name}.npy", pictures)
        _write_results(order.folder, {**read_results(order.folder), row.name: figures})
        print(
            f"{order.unit.name}: {row.name}: held-out {figures.held_out:.4f}, heads {figures.recognised:.3f}, "
            f"gain {figures.gain:g}, {figures.seconds:.0f} s",
            flush=True,
        )
    return read_results(order.folder)


def end_with_parent() -> None:
    """In a worker: a run that is killed leaves nobody training."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def measure(lab: Lab, row: Row) -> tuple[Figures, Pictures]:
    """Make a row's models, find their gain where it is theirs to choose, and measure them."""
    began = time.monotonic()
    models = row.make(lab)
    gain = lab.yardstick.best_gain(models[0]) if row.tuned else 1.0
    figures, pictures = lab.yardstick.figures(models, gain)
    return replace(figures, seconds=round(time.monotonic() - began, 1)), pictures


def read_results(folder: Path) -> dict[str, Figures]:
    """By row; empty where nothing is done yet."""
    path = folder / RESULTS
    return {name: Figures(**told) for name, told in json.loads(path.read_text()).items()} if path.exists() else {}


def _write_results(folder: Path, results: Mapping[str, Figures]) -> None:
    beside = folder / f"{RESULTS}.part"
    folder.mkdir(parents=True, exist_ok=True)
    beside.write_text(json.dumps({name: asdict(one) for name, one in results.items()}, indent=1))
    beside.replace(folder / RESULTS)
