"""The gain, chosen on images that members held out, by members who may not all be honest."""

from collections.abc import Sequence

import numpy as np

from protocol.contribution import ScoreReport
from protocol.errors import BadInput
from protocol.manifest import GainScore


def choose(reports: Sequence[ScoreReport], gains: Sequence[float]) -> tuple[float, tuple[GainScore, ...]]:
    """The gain whose median held-out loss over members is least; the smaller one where two are equal.

    The median moves little for one liar, whatever number it reports.

    Raises:
        BadInput: nobody scored, or a report is not about these gains.
    """
    if not reports:
        raise BadInput("No member scored the candidates.")
    if any(len(report.losses) != len(gains) for report in reports):
        raise BadInput("A score report is about other gains.")
    medians = np.median(np.array([report.losses for report in reports]), axis=0)
    scores = tuple(GainScore(gain=g, loss=float(m)) for g, m in zip(gains, medians, strict=True))
    best = min(scores, key=lambda s: (s.loss, s.gain))
    return best.gain, scores
