"""How many threads, and which number format: a few real steps of each are timed, once for a machine and a base."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bases.families import Base
from client.training.batches import Batches
from client.training.cache import replace_durably
from client.training.descent import Descent, adapting
from client.training.options import TrainingOptions
from client.training.precision import best_format
from protocol.canonical import canonical, sha256
from protocol.grant import RoundPlan

FILE = "timing.json"
STEPS = 2
LONGEST_S = 60.0
"""After this long the best so far is taken: on a slow machine each step is minutes."""
CLEARLY = 0.85
"""Fewer bits are taken only where they need less than this share of the time."""


@dataclass(frozen=True)
class Choice:
    """What a machine trains this base with, and the seconds of a step that speak for it."""

    threads: int
    precision: str
    seconds_a_step: float


def fastest(
    base: Base,
    batches: Batches,
    plan: RoundPlan,
    options: TrainingOptions,
    threads: int | None,
    folder: Path,
    name: str,
) -> Choice:
    """The choice kept in ``folder`` for the base called ``name``, timed now if there is none.

    What the member set (``threads``, ``options.precision``) is not tried otherwise.
    """
    asked = [name, plan.batch, options.model_dump(mode="json", include={"rank", "precision", "gradient_checkpointing"})]
    machine = [platform.node(), platform.processor(), cores(), base.device.type, torch.__version__]
    key = sha256(canonical([*asked, threads, *map(str, machine)]))[:16]
    known = _read(folder / FILE)
    if key in known:
        return Choice(**known[key])

    def seconds(choice: tuple[int, str]) -> float:
        return seconds_a_step(base, batches, plan, options.model_copy(update={"precision": choice[1]}), choice[0])

    best = choose(_candidates(base, options, threads), seconds)
    with contextlib.suppress(OSError):  # it would only have saved the next timing
        replace_durably(folder / FILE, canonical({**known, key: asdict(best)}))
    return best


def choose(candidates: Sequence[Sequence[tuple[int, str]]], seconds: Callable[[tuple[int, str]], float]) -> Choice:
    """The quickest thread count in the first format, then any later format that is clearly quicker with it."""
    began = time.monotonic()
    first, others = candidates
    best: Choice | None = None
    for threads, precision in first:
        if best is None or time.monotonic() - began < LONGEST_S:
            timed = Choice(threads, precision, seconds((threads, precision)))
            best = timed if best is None or timed.seconds_a_step < best.seconds_a_step else best
    assert best
    for _, precision in others:
        if time.monotonic() - began < LONGEST_S:
            timed = Choice(best.threads, precision, seconds((best.threads, precision)))
            best = timed if timed.seconds_a_step < CLEARLY * best.seconds_a_step else best
    return best


def seconds_a_step(base: Base, batches: Batches, plan: RoundPlan, options: TrainingOptions, threads: int) -> float:
    """The shorter of some real steps, after one that warms up. Leaves neither adapter nor chance behind."""
    use_threads(threads)
    state, few = batches.state(), plan.model_copy(update={"steps": STEPS + 1})
    try:
        with adapting(base, few, options):
            descent = Descent(base, batches, few, options, None)
            return min([_seconds(descent) for _ in range(STEPS + 1)][1:])
    finally:
        batches.restore(state)


def use_threads(count: int) -> None:
    """CPU threads of every operation from here on."""
    torch.set_num_threads(count)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _candidates(base: Base, options: TrainingOptions, threads: int | None) -> list[list[tuple[int, str]]]:
    """(threads, format) to try first, and formats to try after with the best number of threads."""
    on_cpu = base.device.type == "cpu"
    first = best_format(base.device) if options.precision == "auto" else options.precision
    counts = [threads] if threads else sorted({1, (cores() + 1) // 2, cores()}) if on_cpu else [cores()]
    others = ["bf16"] if options.precision == "auto" and on_cpu and torch.cpu._is_avx512_bf16_supported() else []
    return [[(count, first) for count in counts], [(0, one) for one in others]]


def _seconds(descent: Descent) -> float:
    began = time.perf_counter()
    descent.step()
    float(descent.losses[descent.done - 1])  # waits for a GPU
    return time.perf_counter() - began


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
