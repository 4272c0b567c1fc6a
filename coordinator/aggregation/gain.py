"""Candidate and gain, chosen on images that members held out, by members who may not all be honest."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.contribution import CandidateName, ScoreReport
from protocol.errors import BadInput
from protocol.manifest import GainScore


def choose(
    reports: Sequence[ScoreReport],
    candidates: Sequence[CandidateName],
    gains: Sequence[float],
    weights: Mapping[str, int] | None = None,
    eligible: Collection[CandidateName] | None = None,
) -> tuple[GainScore, tuple[GainScore, ...]]:
    """The candidate and gain whose weighted median of held-out losses is least, and what everything scored.

    Where two are equal, the smaller gain and then the earlier candidate. ``weights`` are the contributions' by grant,
    one where a scorer has none; ``eligible`` are the candidates that may be chosen, all by default. The median moves
    little for one liar, whatever number it reports.

    Raises:
        BadInput: nobody scored, or a report is not about these candidates and gains.
    """
    if not reports:
        raise BadInput("No member scored the candidates.")
    shape = [len(gains)] * len(candidates)
    if any([len(losses) for losses in report.losses] != shape for report in reports):
        raise BadInput("A score report is about other candidates or gains.")
    counted = np.array([max(1, (weights or {}).get(report.grant_id, 1)) for report in reports])
    told = np.array([report.losses for report in reports])
    scores = tuple(
        GainScore(candidate=name, gain=gain, loss=weighted_median(told[:, i, j], counted))
        for i, name in enumerate(candidates)
        for j, gain in enumerate(gains)
    )
    open_to_choice = [score for score in scores if eligible is None or score.candidate in eligible]
    return min(open_to_choice, key=lambda score: (score.loss, score.gain)), scores


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    """The value at which half of the weight is reached; the mean of two where it is reached exactly between them."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    half = reached[-1] / 2
    at = int(np.searchsorted(reached, half))
    after = at + 1 if reached[at] == half else at
    return float((values[order[at]] + values[order[after]]) / 2)
