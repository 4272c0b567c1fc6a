"""The gate: what members' held-out scores decide between, and what they say each contribution is worth."""

from pathlib import Path

import numpy as np
import pytest
from round_parts import PLAN, adapter_for, statistics_for

from coordinator.aggregation.gain import choose
from coordinator.rounds import candidate
from coordinator.rounds.candidate import MERGED, TRIMMED, Candidates, without
from coordinator.rounds.merging import MergeOrder, Ordered, make
from protocol.adapter import Factors, dump_adapter, dump_statistics
from protocol.contribution import ScoreReport
from protocol.grant import RoundPlan
from protocol.policy import RobustRule

HASH = "a" * 64
STRANGER = "4"


def order_of(
    folder: Path, count: int = 5, plan: RoundPlan = PLAN, robust: RobustRule = RobustRule.NONE, far: bool = True
) -> MergeOrder:
    """Contributions that are much alike, and the last of them, if ``far``, unlike all others."""
    common, contributions = adapter_for(100), []
    for number in range(count):
        own, stranger = adapter_for(number), far and number == count - 1
        adapter = own if stranger else {n: _between(common[n], own[n]) for n in common}
        files = folder / f"{number}.adapter", folder / f"{number}.statistics"
        files[0].write_bytes(dump_adapter(adapter))
        files[1].write_bytes(dump_statistics(statistics_for(number)))
        contributions.append(
            Ordered(
                contribution_id=str(number),
                weight=1,
                adapter=files[0],
                statistics=files[1],
                captions=("a",),
                plan=plan,
            )
        )
    return MergeOrder(
        plan=plan,
        robust=robust,
        processes=1,
        base=folder,
        base_hash=HASH,
        contributions=tuple(contributions),
        lessons=folder / "lessons",
        candidates=folder / "candidates",
    )


def _between(common: Factors, own: Factors) -> Factors:
    return Factors(common.a, common.b + 0.1 * own.b, common.kernel)


def report(candidates: Candidates, losses: dict[str, float], gains: int = 2) -> ScoreReport:
    told = tuple((losses.get(name, 0.5),) * gains for name in candidates.scored)
    return ScoreReport(round_id="r", grant_id="g", node_key="n", candidates_hash=HASH, losses=told, images=3)


def test_members_choose_between_the_whole_set_and_the_one_without_outliers(tmp_path: Path) -> None:
    made = make(order_of(tmp_path))
    assert made.names == (MERGED, TRIMMED)
    weights = {name: {k: a.weight for k, a in made.of(name).merged.accounts.items()} for name in made.names}
    assert weights[TRIMMED][STRANGER] == 0 < weights[MERGED][STRANGER]
    assert made.note(TRIMMED, STRANGER) and not made.note(MERGED, "0")
    assert made.of(TRIMMED).merged.commitment != made.merged.commitment
    for better, other in ((MERGED, TRIMMED), (TRIMMED, MERGED)):
        best, _ = choose([report(made, {better: 0.2, other: 0.3})], made.scored, PLAN.gains, None, made.names)
        assert best.candidate == better


def test_what_was_scored_is_what_is_read_back_from_the_disk(tmp_path: Path) -> None:
    made = make(order_of(tmp_path, plan=PLAN.model_copy(update={"score_influence": True})))
    again = candidate.read(tmp_path / "candidates", candidate.keep(tmp_path / "candidates", made))
    assert again.scored == made.scored
    for name in made.scored:
        assert dump_adapter(again.adapter(name)) == dump_adapter(made.adapter(name))
        assert again.of(name).merged.accounts == made.of(name).merged.accounts


@pytest.mark.parametrize(
    ("count", "robust"), [(4, RobustRule.NONE), (5, RobustRule.MULTI_KRUM), (5, RobustRule.GEOMETRIC_MEDIAN)]
)
def test_few_members_and_policies_with_a_rule_of_their_own_have_one_merge(
    tmp_path: Path, count: int, robust: RobustRule
) -> None:
    assert make(order_of(tmp_path, count, robust=robust)).names == (MERGED,)


def test_what_a_contribution_is_worth_is_scored_but_never_published(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"score_influence": True})
    made = make(order_of(tmp_path, 3, plan, far=False))
    left_out = tuple(without(str(n)) for n in range(3))
    assert made.names == (MERGED,)
    assert made.scored == (MERGED, *left_out)
    best, scores = choose(
        [report(made, {MERGED: 0.3, left_out[0]: 0.1, left_out[1]: 0.4})], made.scored, PLAN.gains, None, made.names
    )
    assert best.candidate == MERGED, "a merge without a live contribution was chosen"
    from coordinator.rounds.worker import _worth

    assert [_worth(str(n), made, scores) for n in range(3)] == pytest.approx([-0.2, 0.1, 0.2])


def test_the_merge_without_a_contribution_is_the_merge_of_the_others(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"score_influence": True})
    order = order_of(tmp_path, 3, plan, far=False)
    made = make(order)
    others = order.model_copy(update={"contributions": order.contributions[:2]})
    for name, factors in make(others).merged.adapter.items():
        left = made.left_out["2"][name]
        assert np.allclose(left.b @ left.a, factors.b @ factors.a)
