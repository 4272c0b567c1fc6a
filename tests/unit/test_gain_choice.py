"""Candidate and gain are chosen by the members' held-out scores, and one liar changes little."""

import pytest

from coordinator.aggregation.gain import choose
from protocol.contribution import CandidateName, ScoreReport
from protocol.errors import BadInput

GAINS = (0.0, 1.0, 1.15)
ONE: tuple[CandidateName, ...] = ("regression mean",)
TWO: tuple[CandidateName, ...] = ("regression mean", "distilled")


def report(*losses: float, grant: str = "g") -> ScoreReport:
    return report_of(losses, grant=grant)


def report_of(*losses: tuple[float, ...], grant: str = "g") -> ScoreReport:
    return ScoreReport(
        round_id="r", grant_id=grant, node_key="02" + "00" * 48, candidates_hash="0" * 64, losses=losses, images=3
    )


def test_the_gain_with_the_least_median_loss_is_chosen() -> None:
    best, scores = choose([report(0.5, 0.3, 0.2), report(0.6, 0.3, 0.25)], ONE, GAINS)
    assert best.gain == 1.15
    assert [s.gain for s in scores] == list(GAINS)


def test_one_member_reporting_nonsense_does_not_move_the_choice() -> None:
    honest = [report(0.5, 0.3, 0.2)] * 3
    assert choose([*honest, report(0.0, 1e9, 1e9)], ONE, GAINS)[0].gain == 1.15


def test_a_merge_that_helps_nobody_is_published_at_gain_zero_rather_than_harming() -> None:
    assert choose([report(0.2, 0.3, 0.4)] * 3, ONE, GAINS)[0].gain == 0.0


def test_a_member_with_more_weight_than_all_others_decides() -> None:
    light = [report(0.5, 0.3, 0.2), report(0.5, 0.3, 0.2)]
    heavy = report(0.5, 0.2, 0.3, grant="heavy")
    assert choose([*light, heavy], ONE, GAINS)[0].gain == 1.15
    assert choose([*light, heavy], ONE, GAINS, {"heavy": 5})[0].gain == 1.0


def test_the_smaller_gain_wins_a_tie() -> None:
    assert choose([report(0.5, 0.2, 0.2)], ONE, GAINS)[0].gain == 1.0


def test_no_scores_and_scores_of_something_else_are_said() -> None:
    with pytest.raises(BadInput, match="No member scored"):
        choose([], ONE, GAINS)
    for other in (report(0.5), report_of((0.5, 0.3, 0.2), (0.5, 0.3, 0.2))):
        with pytest.raises(BadInput, match="other candidates or gains"):
            choose([other], ONE, GAINS)


def test_the_candidate_that_the_members_see_least_error_in_is_chosen_with_its_gain() -> None:
    told = [report_of((0.5, 0.3, 0.4), (0.5, 0.2, 0.25))] * 2
    best, scores = choose(told, TWO, GAINS)
    assert (best.candidate, best.gain) == ("distilled", 1.0)
    assert [score.candidate for score in scores] == ["regression mean"] * 3 + ["distilled"] * 3


def test_between_equals_the_merge_without_distillation_is_chosen() -> None:
    best, _ = choose([report_of((0.5, 0.2, 0.3), (0.5, 0.2, 0.3))], TWO, GAINS)
    assert best.candidate == "regression mean"
