"""Stable Diffusion 1.x and 2.x, and the embedded base: a UNet under one CLIP text encoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from client.training.families.family import Base, Conditioning
from protocol.adapter import ADAPTED
from protocol.errors import BadInput


class StableDiffusion(Base):
    """Epsilon or v-prediction, as the base's scheduler says."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    adapted: ClassVar[tuple[str, ...]] = ADAPTED
    left_out: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}

    @property
    def levels(self) -> int:
        return len(self._alphas)

    @property
    def _alphas(self) -> Tensor:
        """ᾱ by time step, (levels,)."""
        return self.pipeline.scheduler.alphas_cumprod.to(self.device)

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Conditioning:
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return Conditioning({"text": self.pipeline.text_encoder(ids.to(self.device)).last_hidden_state})

    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        a = self._alphas[steps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        kind = self.pipeline.scheduler.config.prediction_type
        if kind == "epsilon":
            return noisy, noise
        if kind == "v_prediction":
            return noisy, a.sqrt() * noise - (1 - a).sqrt() * latents
        raise BadInput(f"The base predicts {kind}, which is not known here.", "Use an epsilon or v-prediction base.")

    def snr(self, steps: Tensor) -> Tensor:
        a = self._alphas[steps]
        return a / (1 - a)

    def predict(self, noisy: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
        return self.pipeline.unet(noisy, steps, text.tensors["text"]).sample

    def draw_latents(
        self,
        text: Conditioning,
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int], None] = lambda step: None,
        guidance: float = 1.0,
    ) -> Tensor:
        """By the base's own scheduler without randomness; guidance after Ho & Salimans 2022."""
        empty = self.embed([""]).repeated(len(text)) if guidance != 1.0 else None
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        config = self.pipeline.unet.config
        shape = (len(text), config.in_channels, config.sample_size, config.sample_size)
        latents = torch.randn(shape, generator=generator, device=self.device) * scheduler.init_noise_sigma
        for done, step in enumerate(scheduler.timesteps, start=1):
            noisy = scheduler.scale_model_input(latents, step)
            guess = self.predict(noisy, step, text)
            if empty is not None:
                unguided = self.predict(noisy, step, empty)
                guess = unguided + guidance * (guess - unguided)
            latents = scheduler.step(guess, step, latents).prev_sample
            progress(done)
        return latents
