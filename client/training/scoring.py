"""Score candidates on images that were never trained on: denoising loss at fixed noise."""

from collections.abc import Mapping, Sequence

import torch

from bases.families import Base
from bases.families.family import Encoded
from bases.statistics import even_steps
from client.collection.example import Example
from protocol.adapter import Factors
from protocol.errors import BadInput

NOISE_LEVELS = 8


def score(
    base: Base, adapter: Mapping[str, Factors], gains: Sequence[float], examples: Sequence[Example], seed: int
) -> tuple[float, ...]:
    """Mean loss at each gain; the same noise for every candidate, so that differences are the candidates' own.

    Raises:
        BadInput: no image was held out.
    """
    if not examples:
        raise BadInput("No image was held out to score with.")
    encoded = base.encode(examples)
    losses = []
    for gain in gains:
        with base.under(adapter, gain):
            losses.append(fixed_noise_loss(base, encoded, seed))
    return tuple(losses)


@torch.no_grad()
def fixed_noise_loss(base: Base, encoded: Encoded, seed: int, batch: int = 32) -> float:
    """Mean squared error over all examples at ``NOISE_LEVELS`` noise levels, noise drawn from ``seed``."""
    generator = torch.Generator(base.device).manual_seed(seed)
    total = 0.0
    for step in even_steps(base, NOISE_LEVELS):
        noise = torch.randn(encoded.latents.shape, generator=generator, device=base.device)
        for rows in torch.arange(len(noise), device=base.device).split(batch):
            steps = torch.full((len(rows),), step, device=base.device)
            noisy, target = base.noised(encoded.latents[rows], noise[rows], steps)
            guess = base.predict(noisy, steps, encoded.text.rows(rows))
            total += float((guess - target).square().mean(dim=(1, 2, 3)).sum())
    return total / (len(encoded.latents) * NOISE_LEVELS)
