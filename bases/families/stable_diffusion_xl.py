"""Stable Diffusion XL: a UNet under two CLIP text encoders, told the picture's size too (Podell et al. 2023)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bases.families.diffusion import Diffusion
from bases.families.family import Conditioning, Size


class StableDiffusionXL(Diffusion):
    """Told both encoders' second last hidden states, the second one's pooled answer, and sizes.

    Pictures are neither cropped nor said to have been larger: original and target size are the picture's own. Where
    the base draws without a caption from zeros, the empty caption is zeros, so that it means the same in training.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)

    @torch.no_grad()
    def embed(self, captions: Sequence[str], size: Size | None = None) -> Conditioning:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            list(captions), device=self.device, do_classifier_free_guidance=False
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([not caption for caption in captions], device=self.device)
            text, pooled = text.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        height, width = size or self.size
        row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.device)
        return Conditioning({"text": text, "pooled": pooled, "size": row.repeat(len(captions), 1)})

    def ask(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        unet, told = self.pipeline.unet, text.tensors
        pooled = {"text_embeds": told["pooled"].to(unet.dtype), "time_ids": told["size"]}
        answer = unet(noisy.to(unet.dtype), timesteps, told["text"].to(unet.dtype), added_cond_kwargs=pooled)
        return answer.sample.float()
