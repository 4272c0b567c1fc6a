"""The gain is chosen by the members' held-out scores, and one liar changes little."""

import pytest

from coordinator.aggregation.gain import choose
from protocol.contribution import ScoreReport
from protocol.errors import BadInput

GAINS = (0.0, 1.0, 1.15)


def report(*losses: float, grant: str = "g") -> ScoreReport:
    return ScoreReport(
        round_id="r", grant_id=grant, node_key="02" + "00" * 48, candidate_sha256="0" * 64, losses=losses, images=3
    )


def test_the_gain_with_the_least_median_loss_is_chosen() -> None:
    gain, scores = choose([report(0.5, 0.3, 0.2), report(0.6, 0.3, 0.25)], GAINS)
    assert gain == 1.15
    assert [s.gain for s in scores] == list(GAINS)


def test_one_member_reporting_nonsense_does_not_move_the_choice() -> None:
    honest = [report(0.5, 0.3, 0.2)] * 3
    assert choose([*honest, report(0.0, 1e9, 1e9)], GAINS)[0] == 1.15


def test_a_merge_that_helps_nobody_is_published_at_gain_zero_rather_than_harming() -> None:
    assert choose([report(0.2, 0.3, 0.4)] * 3, GAINS)[0] == 0.0


def test_a_member_with_more_weight_than_all_others_decides() -> None:
    light = [report(0.5, 0.3, 0.2), report(0.5, 0.3, 0.2)]
    heavy = report(0.5, 0.2, 0.3, grant="heavy")
    assert choose([*light, heavy], GAINS)[0] == 1.15
    assert choose([*light, heavy], GAINS, {"heavy": 5})[0] == 1.0


def test_the_smaller_gain_wins_a_tie() -> None:
    assert choose([report(0.5, 0.2, 0.2)], GAINS)[0] == 1.0


def test_no_scores_and_scores_of_something_else_are_said() -> None:
    with pytest.raises(BadInput, match="No member scored"):
        choose([], GAINS)
    with pytest.raises(BadInput, match="other gains"):
        choose([report(0.5)], GAINS)
