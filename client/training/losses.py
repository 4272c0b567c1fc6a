"""The denoising loss: noise and time steps of a batch, and what each time step's error weighs.

Min-SNR-γ (Hang et al. 2023) caps an error's weight, said of the clean picture, at γ: w₀(t) = min(SNR, γ). What a
family's denoiser answers is linear in picture x and noise n, and so is the noisy picture z:

    z = α x + σ n,  y = p x + q n   ⇒   x = (q z − σ y) / (α q − σ p)

so an error of y weighs w(t) = min(SNR, γ) · (σ / (α q − σ p))². That is min(SNR, γ)/SNR where noise is predicted,
min(SNR, γ)/(SNR + 1) for v, and σ² min(SNR, γ) for the velocity of a flow, without asking which it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bases.families import Base
from bases.families.family import Conditioning
from protocol.grant import RoundPlan


@dataclass(frozen=True)
class Draw:
    """One step's batch with all its chance: latents and noise (n, c, h, w), time steps (n,), text."""

    latents: Tensor
    noise: Tensor
    steps: Tensor
    text: Conditioning

    def __len__(self) -> int:
        return len(self.latents)

    def part(self, rows: Tensor) -> "Draw":
        """Only these rows of it."""
        return Draw(self.latents[rows], self.noise[rows], self.steps[rows], self.text.rows(rows))


class DenoisingLoss:
    """Mean squared error of the denoiser's answer, weighed by time step where the plan says so."""

    def __init__(self, base: Base, plan: RoundPlan) -> None:
        self._base = base
        self._weights = step_weights(base, plan.min_snr) if plan.min_snr else None

    def __call__(self, draw: Draw) -> Tensor:
        """The loss of a batch or of a part of one: a scalar with gradient."""
        noisy, target = self._base.noised(draw.latents, draw.noise, draw.steps)
        error = (self._base.predict(noisy, draw.steps, draw.text).float() - target).square()
        if self._weights is None:
            return error.mean()
        return (error.flatten(1).mean(1) * self._weights[draw.steps]).mean()


def step_weights(base: Base, gamma: float) -> Tensor:
    """Min-SNR-γ's weight of each time step, (levels,)."""
    steps = torch.arange(base.levels, device=base.device)
    zero, one = (torch.full((base.levels, 1, 1, 1), float(v), device=base.device) for v in (0, 1))
    (alpha, p), (sigma, q) = (
        [part.flatten().double() for part in base.noised(latents, noise, steps)]
        for latents, noise in ((one, zero), (zero, one))
    )
    # Where nothing of the picture is left, an error of the predicted noise says nothing about it: weight 0, not 0/0.
    determinant = alpha * q - sigma * p
    reach = torch.where(determinant.abs() > 0, sigma / determinant, 0.0)
    return (base.snr(steps).double().clamp(max=gamma) * reach.square()).float()


def draw_noise(latents: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise; ``offset`` adds some that is the same all over a channel (Guttenberg 2023)."""
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    if not offset:
        return noise
    shift = torch.randn((*latents.shape[:2], 1, 1), generator=generator, device=latents.device)
    return noise + offset * shift
