"""A second pass over the statistics: what the layers read when the merged model looks at the members' pictures.

The regression mean weighs each member by what its layers read under its own adapter, but in the collective they read
what the collective makes. So each member's statistics become half its own, half the merged model's on the same drawn
pictures, and the merge is made once more.
"""

import numpy as np
import torch

from bases.families import Base
from bases.statistics import draw_pictures, measure, recipe_of, sketch
from bench.quality.factors import Adapter
from protocol.adapter import Sketch, Statistics
from protocol.grant import RoundPlan

OWN_SHARE = 0.5


def second_statistics(
    base: Base, own: Adapter, statistics: Statistics, captions: list[str], merged: Adapter, plan: RoundPlan
) -> dict[str, Sketch]:
    """One member's statistics for the second merge; ``merged`` has its gain folded in."""
    recipe = recipe_of(plan, captions)
    with base.under(own):
        drawn = draw_pictures(base, captions, recipe)
    with base.under(merged):
        moments = measure(base, list(merged), drawn, recipe)
    return {
        group: sketch(_mixed(statistics[group], moment.sum.cpu()), recipe.rank) for group, moment in moments.items()
    }


def _mixed(own: Sketch, moment: torch.Tensor) -> torch.Tensor:
    """Both at unit trace."""
    dense = own.dense()
    return OWN_SHARE * torch.from_numpy(dense / np.trace(dense)) + (1 - OWN_SHARE) * moment / moment.trace()
