"""The work of the state ``merging``, in a process of its own: check the statistics, merge, distil.

Its memory goes back when it ends, torch stays out of the coordinator, and a crash there is no crash here. It is told
everything in one document on its standard input, keeps what it makes among the candidates and says their hash.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bases.shipped import shipped
from coordinator.rounds import candidate
from coordinator.rounds.candidate import Candidates, Distilled, Made, OwnWord
from coordinator.rounds.files import store_folder
from merging.merge import TOLERANCE, Anchor, Merged, MergeInput, merge
from protocol.adapter import Factors, dump_statistics, load_adapter, load_statistics
from protocol.canonical import Document, canonical, sha256
from protocol.errors import BadInput, ContentMismatch, ContributionRefused, Unreachable
from protocol.grant import RoundPlan
from protocol.manifest import BaseStatistics, Distillation
from protocol.policy import RobustRule

if TYPE_CHECKING:
    from bases.families import Base
    from coordinator.distillation.lessons import Lessons


STATISTICS = "statistics.safetensors"
FEWEST_TO_TRIM = 5
"""Multi-Krum takes a fifth to be bad: of fewer that is nobody."""


class Ordered(Document):
    """One live contribution, its files and what they depend on."""

    contribution_id: str
    weight: int
    adapter: Path
    statistics: Path
    captions: tuple[str, ...]
    """Of the tokens that it was trained on."""
    plan: RoundPlan
    """Of the round that it was made in, whose recipe its statistics follow; a later round may have another."""
    received: int = 0
    """Unix seconds."""


class MergeOrder(Document):
    """Everything that the candidates depend on, and where they go."""

    plan: RoundPlan
    robust: RobustRule
    processes: int
    base: Path
    base_hash: str
    contributions: tuple[Ordered, ...]
    lessons: Path
    """Lessons drawn before are kept here, those of contributions that are no more are removed."""
    candidates: Path
    sums: Path | None = None
    """Where sums stay from one merge to the next, if they do."""


class Outcome(Document):
    """What the merging process says at its end."""

    kept: str = ""
    """The hash under which the candidates are."""
    failure: str = ""
    """Why these contributions cannot be merged."""


def merge_in_child(order: MergeOrder) -> str:
    """Merge, in another process; the hash of the candidates.

    Raises:
        BadInput: these contributions cannot be merged, for the reason it says.
        Unreachable: the process failed otherwise; its last words are in the message.
    """
    command = [sys.executable, "-m", "coordinator.rounds.merging"]
    done = subprocess.run(command, input=order.canonical(), capture_output=True, check=False)
    try:
        outcome = Outcome.model_validate_json(done.stdout.splitlines()[-1])
    except (IndexError, ValidationError) as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise Unreachable(f"The merging process failed: {last[0]}", "Is coterie[samples] installed?") from error
    if outcome.failure:
        raise BadInput(outcome.failure)
    return outcome.kept


def make(order: MergeOrder) -> Candidates:
    """The merge, and the distillation where the plan asks for it, whatever order the contributions come in.

    Raises:
        BadInput, ContributionRefused: these contributions cannot be merged.
    """
    load = cache(partial(_load, order.base))
    word = _own_word(order, load)
    anchor = Anchor(order.plan.base_weight, word.file) if word else None
    if order.plan.distillation_steps == 0:
        left_out = _left_out(order, {}, anchor)
        return Candidates(
            _merged(order, {}, anchor), trimmed=_trimmed(order, {}, anchor), left_out=left_out, own_word=word
        )
    from coordinator.distillation.lessons import change

    by_id = tuple(sorted(order.contributions, key=lambda one: one.contribution_id))
    order = order.model_copy(update={"contributions": by_id})
    base = load()
    lessons, own = _taught(order, base), _base_lessons(order, base)
    errors = {key: float(one.error) for key, one in lessons.items()}
    merged = _merged(order, errors, anchor)
    distilled = _distilled(order, base, merged, lessons, own)
    trimmed = _trimmed(order, errors, anchor)
    if trimmed:
        trimmed = Made(trimmed.merged, _distilled(order, base, trimmed.merged, lessons, own))
    _keep_only(order.lessons, {*(_lessons_key(order, one) for one in order.contributions), *_base_keys(order)})
    left_out = _left_out(order, errors, anchor)
    made = Candidates(merged, distilled, errors, trimmed=trimmed, left_out=left_out, own_word=word)
    return replace(made, base_changes={name: change(base, made.adapter(name), own) for name in made.names})


def _merged(order: MergeOrder, errors: Mapping[str, float], anchor: Anchor | None = None) -> Merged:
    """The whole set, by the policy's rule."""
    return merge(_inputs(order, errors), order.plan, order.robust, order.processes, order.sums, anchor)


def _trimmed(order: MergeOrder, errors: Mapping[str, float], anchor: Anchor | None = None) -> Made | None:
    """Without those whom Multi-Krum would leave out, for members' scores to compare.

    A DAO whose policy names a rule has decided that question already.
    """
    if order.robust is not RobustRule.NONE or len(order.contributions) < FEWEST_TO_TRIM:
        return None
    sums = order.sums.with_name(f"{order.sums.name}-trimmed") if order.sums else None
    merged = merge(_inputs(order, errors), order.plan, RobustRule.MULTI_KRUM, order.processes, sums, anchor)
    return Made(merged) if any(account.weight == 0 for account in merged.accounts.values()) else None


def _left_out(
    order: MergeOrder, errors: Mapping[str, float], anchor: Anchor | None = None
) -> dict[str, dict[str, Factors]]:
    """By contribution, the merge without it, where the plan asks what each is worth by members' scores."""
    if not order.plan.score_influence or len(order.contributions) < 2:
        return {}
    inputs = _inputs(order, errors)
    return {
        one.contribution_id: merge(
            [other for other in inputs if other is not one], order.plan, order.robust, order.processes, None, anchor
        ).adapter
        for one in inputs
    }


def _inputs(order: MergeOrder, errors: Mapping[str, float]) -> list[MergeInput]:
    """Whoever's statistics are not what its adapter reads counts with the mean of the others'."""
    return [
        MergeInput(
            one.contribution_id,
            one.weight,
            one.adapter,
            one.statistics if errors.get(one.contribution_id, 0.0) <= TOLERANCE else None,
            one.received,
        )
        for one in order.contributions
    ]


def _taught(order: MergeOrder, base: "Base") -> dict[str, "Lessons"]:
    """By contribution, its lessons: kept ones where there are, so that a removal draws nothing anew."""
    from coordinator.distillation.lessons import Lessons, draw_lessons

    folders = {one.contribution_id: order.lessons / _lessons_key(order, one) for one in order.contributions}
    for one in order.contributions:
        if not folders[one.contribution_id].exists():
            adapter = load_adapter(one.adapter.read_bytes())
            signed = load_statistics(one.statistics.read_bytes())
            draw_lessons(base, adapter, one.captions, one.plan, signed).save(folders[one.contribution_id])
    return {
        one.contribution_id: Lessons.load(folders[one.contribution_id], one.captions) for one in order.contributions
    }


def _base_lessons(order: MergeOrder, base: "Base") -> "Lessons":
    """What the base itself answers on pictures of its own."""
    from coordinator.distillation.lessons import Lessons, draw_lessons

    folder, captions = order.lessons / _base_keys(order)[0], order.plan.prior_captions
    if not folder.exists():
        draw_lessons(base, {}, captions, order.plan).save(folder)
    return Lessons.load(folder, captions)


def _load(folder: Path) -> "Base":
    from bases.loading import load_base

    return load_base(folder)


def _own_word(order: MergeOrder, load: Callable[[], "Base"]) -> OwnWord | None:
    """The base's own statistics G₀, if the plan gives it a word: those that came with it, or else drawn."""
    if not order.plan.base_weight or not order.contributions:
        return None
    came = shipped(order.base, order.base_hash)
    file = came or _drawn(order, load)
    return OwnWord(BaseStatistics(source="shipped" if came else "drawn", sha256=sha256(file.read_bytes())), file)


def _drawn(order: MergeOrder, load: Callable[[], "Base"]) -> Path:
    """G₀ on pictures that the base draws from the plan's captions."""
    from bases.statistics import draw, recipe_of

    folder = order.lessons / _base_keys(order)[1]
    if not folder.exists():
        layers = load_adapter(order.contributions[0].adapter.read_bytes())
        captions = order.plan.prior_captions
        sketches = draw(load(), {}, captions, recipe_of(order.plan, captions), layers=list(layers))
        store_folder(folder, {STATISTICS: dump_statistics(sketches)})
    return folder / STATISTICS


def _distilled(
    order: MergeOrder, base: "Base", merged: Merged, lessons: Mapping[str, "Lessons"], own: "Lessons"
) -> Distilled | None:
    """None where nobody teaches: a contribution that the robust rule cut down or left out does not."""
    from coordinator.distillation.distil import distil

    taught = {key: one for key, one in lessons.items() if merged.accounts[key].weight and not merged.accounts[key].note}
    if not taught:
        return None
    shares = [float(merged.accounts[key].weight) for key in taught]
    losses: list[float] = []
    adapter = distil(
        base,
        merged.adapter,
        [*taught.values(), own],
        [*shares, order.plan.base_weight * sum(shares)],
        order.plan,
        lambda step, steps, loss: losses.append(loss),
    )
    window = max(1, len(losses) // 10)
    account = Distillation(
        teachers=len(taught),
        steps=len(losses),
        lessons=sum(map(len, taught.values())),
        first_loss=mean(losses[:window]),
        last_loss=mean(losses[-window:]),
    )
    return Distilled(adapter, account)


def _lessons_key(order: MergeOrder, one: Ordered) -> str:
    """Names all that the lessons depend on; the contribution's id stands for what is in it and for its plan."""
    return sha256(canonical([order.base_hash, one.contribution_id]))[:32]


def _base_keys(order: MergeOrder) -> tuple[str, str]:
    """The same for the base's own lessons, and for its statistics."""
    plan = order.plan
    pictures = plan.sized(len(plan.prior_captions)).statistics_pictures
    drawn = [pictures, plan.drawing_steps, plan.statistics_rank, plan.seed]
    recipe = [order.base_hash, list(plan.prior_captions), *drawn]
    key = sha256(canonical(recipe))[:32]
    return f"base-{key}", f"moments-{key}"


def _keep_only(folder: Path, names: Collection[str]) -> None:
    for old in folder.iterdir():
        if old.name not in names:
            shutil.rmtree(old, ignore_errors=True)


def _main() -> None:
    order = MergeOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        outcome = Outcome(kept=candidate.keep(order.candidates, make(order)))
    except (BadInput, ContentMismatch, ContributionRefused) as error:
        outcome = Outcome(failure=error.message)
    sys.stdout.buffer.write(b"\n" + outcome.canonical() + b"\n")


if __name__ == "__main__":
    _main()
