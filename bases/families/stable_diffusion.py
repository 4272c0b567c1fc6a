"""Stable Diffusion 1.x and 2.x, and the embedded base: a UNet under one CLIP text encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bases.families.diffusion import Diffusion
from bases.families.family import Conditioning, Size


class StableDiffusion(Diffusion):
    """Told the caption alone, as the text encoder's last hidden states."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    left_out: ClassVar[Mapping[str, Any]] = {
        **Diffusion.left_out,
        "safety_checker": None,
        "requires_safety_checker": False,
    }

    @torch.no_grad()
    def embed(self, captions: Sequence[str], size: Size | None = None) -> Conditioning:
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return Conditioning({"text": self.pipeline.text_encoder(ids.to(self.device)).last_hidden_state})

    def ask(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        unet = self.pipeline.unet
        return unet(noisy.to(unet.dtype), timesteps, text.tensors["text"].to(unet.dtype)).sample.float()
