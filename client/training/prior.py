"""Prior preservation: pictures that the base draws itself, trained on beside the member's own (Ruiz et al. 2023)."""

import torch

from bases.families import Base
from client.training.cache import Cache, Tensors
from protocol.grant import RoundPlan

BATCH = 8
SAMPLING_STEPS = 20


def prior_captions(plan: RoundPlan) -> list[str]:
    """What each of the prior pictures shows: the plan's captions in turn."""
    return [plan.prior_captions[i % len(plan.prior_captions)] for i in range(plan.prior_pictures)]


def prior_latents(base: Base, plan: RoundPlan, cache: Cache) -> torch.Tensor:
    """Latents (n, c, h, w) that the base alone draws: nobody's picture, and the same for every member of a round."""
    captions = prior_captions(plan)

    @torch.no_grad()
    def make() -> Tensors:
        generator = torch.Generator(base.device).manual_seed(plan.seed)
        parts = [captions[start : start + BATCH] for start in range(0, len(captions), BATCH)]
        return {"latents": torch.cat([base.draw_latents(base.embed(p), SAMPLING_STEPS, generator) for p in parts])}

    what = {"kind": "prior", "captions": captions, "steps": SAMPLING_STEPS, "seed": plan.seed}
    return cache.kept(what, base.device, make)["latents"]
