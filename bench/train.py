"""``python -m bench.train``: what a training step costs here, against the least that any engine must do.

The loops take turns step by step in one process, so that whatever else the machine does hits all of them alike.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bases import EMBEDDED_BASE
from bases.families import Base
from bases.loading import load_base
from bases.nouns_art import NounsArt, caption
from bench.bases import quiet, small_sd15
from bench.loops import Step, floor, ours, script
from client.collection.example import Example
from client.training.engine import train
from client.training.scoring import score
from client.training.timing import cores, use_threads
from protocol.grant import RoundPlan

ART = Path(__file__).parents[1] / "deploy/devchain/node_modules/@nouns/assets/dist/image-data.json"
OVER_FLOOR, OVER_SCRIPT, TWELVE_IMAGES_S = 1.08, 1.00, 60.0
WARM_UP = 2
FLOOR, OURS, WITH_PENALTY, SCRIPT = "floor", "ours", "ours, drift penalty", "script"


def main() -> None:
    """Measure, print the table, then a line for each bar; a missed bar is no error."""
    parser = argparse.ArgumentParser(description="Time this engine's training step on this machine.")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of every loop")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    told = parser.parse_args()
    use_threads(told.threads)
    quiet()
    print(f"torch {torch.__version__}, {told.threads} of {cores()} CPU threads, medians of {told.steps} turns\n")
    print("| step | embedded base, ms | over floor | small SD 1.5 shape, ms | over floor |\n|---|---|---|---|---|")
    nouns, plan = _nouns(12), RoundPlan(steps=10_000)
    embedded = load_base(EMBEDDED_BASE)
    first = _timed(embedded, nouns[:9], plan, told.steps)
    second = _timed(small_sd15(), _noise(8, 128), plan.model_copy(update={"batch": 2}), told.steps)
    for name in first:
        cells = [f"{1000 * seconds:.1f} | {ratio:.3f}" for seconds, ratio in (first[name], second[name])]
        print(f"| {name} | {' | '.join(cells)} |")
    seconds, before, after = _twelve_images(embedded, nouns)
    print(f"\n12 images, 3 of them held out: loss {before:.4f} in the base, {after:.4f} after {seconds:.1f} s\n")
    for name, timed in (("embedded", first), ("sd15-shape", second)):
        _bar(f"train-step-over-floor-{name}", timed[OURS][1], OVER_FLOOR)
        _bar(f"train-step-with-drift-penalty-over-floor-{name}", timed[WITH_PENALTY][1], OVER_FLOOR)
        _bar(f"train-step-over-script-{name}", timed[OURS][1] / timed[SCRIPT][1], OVER_SCRIPT)
    _bar("twelve-images-seconds", seconds if after < before else float("inf"), TWELVE_IMAGES_S)


def _timed(base: Base, examples: Sequence[Example], plan: RoundPlan, count: int) -> dict[str, tuple[float, float]]:
    """By loop: the median of a step's seconds, and the median of its ratio to the floor's step of the same turn.

    One step of each in turn, each turn beginning with another.
    """
    free = plan.model_copy(update={"drift": 0.0})
    with ExitStack() as stack:
        loops: dict[str, Step] = {
            FLOOR: floor(base, examples, free),
            OURS: ours(base, examples, free, stack),
            WITH_PENALTY: ours(base, examples, plan, stack),
            SCRIPT: script(base, examples, free),
        }
        times: dict[str, list[float]] = {name: [] for name in loops}
        names = list(loops)
        for turn in range(WARM_UP + count):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                began = time.perf_counter()
                loops[name]()
                times[name].append(time.perf_counter() - began)
    kept = {name: seconds[WARM_UP:] for name, seconds in times.items()}
    return {
        name: (median(seconds), median(one / least for one, least in zip(seconds, kept[FLOOR], strict=True)))
        for name, seconds in kept.items()
    }


def _twelve_images(base: Base, nouns: Sequence[Example]) -> tuple[float, float, float]:
    """(seconds, held-out loss of the base, of the base under the adapter), by the default plan."""
    began = time.monotonic()
    trained = train(base, nouns[:9], RoundPlan(), lambda progress: None)
    seconds = time.monotonic() - began
    before, after = score(base, trained.adapter, (0.0, 1.0), nouns[9:], seed=0)
    return seconds, before, after


def _nouns(count: int) -> list[Example]:
    """Nouns of three heads that the embedded base never saw."""
    art, rng = NounsArt.load(ART), np.random.default_rng(3)
    seeds = [art.random_seed(rng, (art.held_out_heads[i % 3],)) for i in range(count)]
    return [Example(art.compose(seed), caption(art.traits(seed))) for seed in seeds]


def _noise(count: int, size: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), f"picture {i}") for i in range(count)]


def _bar(name: str, measured: float, limit: float) -> None:
    print(f"bar {name} {measured:.3f} {limit:.2f} {'met' if measured <= limit else 'missed'}")


if __name__ == "__main__":
    main()
