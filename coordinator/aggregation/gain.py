"""The gain, chosen on images that members held out, by members who may not all be honest."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.contribution import ScoreReport
from protocol.errors import BadInput
from protocol.manifest import GainScore


def choose(
    reports: Sequence[ScoreReport], gains: Sequence[float], weights: Mapping[str, int] | None = None
) -> tuple[float, tuple[GainScore, ...]]:
    """The gain whose weighted median of held-out losses is least; the smaller one where two are equal.

    ``weights`` are the contributions' by grant, one where a scorer has none. The median moves little for one liar,
    whatever number it reports.

    Raises:
        BadInput: nobody scored, or a report is not about these gains.
    """
    if not reports:
        raise BadInput("No member scored the candidates.")
    if any(len(report.losses) != len(gains) for report in reports):
        raise BadInput("A score report is about other gains.")
    counted = np.array([max(1, (weights or {}).get(report.grant_id, 1)) for report in reports])
    columns = np.array([report.losses for report in reports]).T
    scores = tuple(
        GainScore(gain=gain, loss=weighted_median(losses, counted)) for gain, losses in zip(gains, columns, strict=True)
    )
    best = min(scores, key=lambda s: (s.loss, s.gain))
    return best.gain, scores


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    """The value at which half of the weight is reached; the mean of two where it is reached exactly between them."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    half = reached[-1] / 2
    at = int(np.searchsorted(reached, half))
    after = at + 1 if reached[at] == half else at
    return float((values[order[at]] + values[order[after]]) / 2)
