"""Stable Diffusion 3 and 3.5: a transformer that learns a rectified flow (Esser et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bases.families.family import Base, Conditioning, Size
from protocol.adapter import ADAPTED_IN_TRANSFORMER
from protocol.errors import BadInput


class StableDiffusion3(Base):
    """z = (1 − σ) x + σ n, answered by the velocity n − x; σ by the scheduler's shift.

    Told two CLIP encoders' second last hidden states, T5's where the base has it, and both pooled answers.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    component: ClassVar[str] = "transformer"
    adapted: ClassVar[tuple[str, ...]] = ADAPTED_IN_TRANSFORMER
    left_out: ClassVar[Mapping[str, Any]] = {"feature_extractor": None, "image_encoder": None}

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        super().__init__(pipeline, device)
        config = pipeline.scheduler.config
        if config.get("use_dynamic_shifting") or "shift" not in config:
            raise BadInput(
                "The base's noise has no fixed shift, and any other is not known here.",
                "Use a base with a FlowMatchEulerDiscreteScheduler without dynamic shifting.",
            )
        even = torch.arange(1, config.num_train_timesteps + 1, device=device) / config.num_train_timesteps
        # σ by time step, growing to 1, (levels,)
        self._sigmas: Tensor = config.shift * even / (1 + (config.shift - 1) * even)

    @property
    def levels(self) -> int:
        return len(self._sigmas)

    @torch.no_grad()
    def embed(self, captions: Sequence[str], size: Size | None = None) -> Conditioning:
        told = list(captions)
        text, _, pooled, _ = self.pipeline.encode_prompt(
            told, told, told, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning({"text": text, "pooled": pooled})

    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._sigmas[steps][:, None, None, None]
        return (1 - sigma) * latents + sigma * noise, noise - latents

    def snr(self, steps: Tensor) -> Tensor:
        sigma = self._sigmas[steps]
        return ((1 - sigma) / sigma).square()

    def predict(self, noisy: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
        return self.ask(noisy, self._sigmas[steps] * self.levels, text)

    def ask(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        transformer, told = self.pipeline.transformer, text.tensors
        return transformer(
            hidden_states=noisy.to(transformer.dtype),
            timestep=timesteps.expand(len(noisy)),
            encoder_hidden_states=told["text"].to(transformer.dtype),
            pooled_projections=told["pooled"].to(transformer.dtype),
        ).sample.float()
