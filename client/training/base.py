"""The frozen base: load it, encode examples, and run it under a delta."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from client.collection.example import Example
from protocol.adapter import Factors
from protocol.errors import BadInput


@dataclass(frozen=True)
class Encoded:
    """Examples in latent space: ``latents`` (n, c, h, w), ``text`` (n, tokens, d), ``empty`` (1, tokens, d)."""

    latents: Tensor
    text: Tensor
    empty: Tensor


@dataclass(frozen=True)
class Base:
    """A Stable Diffusion pipeline with every weight frozen."""

    pipeline: StableDiffusionPipeline
    device: torch.device

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def scheduler(self) -> DDIMScheduler:
        return self.pipeline.scheduler

    @property
    def alphas(self) -> Tensor:
        """ᾱ by time step, (steps,)."""
        return self.scheduler.alphas_cumprod.to(self.device)

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        """Captions → (n, tokens, d)."""
        ids = self.pipeline.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.pipeline.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.pipeline.text_encoder(ids.to(self.device)).last_hidden_state

    @torch.no_grad()
    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Pictures to latents and captions to embeddings, once: neither encoder is trained."""
        pixels = torch.from_numpy(np.stack([e.picture for e in examples])).to(self.device)
        posterior = self.pipeline.vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
        latents = posterior.mean * self.pipeline.vae.config.scaling_factor
        return Encoded(latents, self.embed([e.caption for e in examples]), self.embed([""]))

    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latents at ``steps`` (n,), and what the UNet should answer to them."""
        a = self.alphas[steps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noisy, noise
        if kind == "v_prediction":
            return noisy, a.sqrt() * noise - (1 - a).sqrt() * latents
        raise BadInput(f"The base predicts {kind}, which is not known here.", "Use an epsilon or v-prediction base.")

    @contextmanager
    def under(self, adapter: Mapping[str, Factors], gain: float = 1.0) -> Iterator[None]:
        """Within, the UNet's weights are W + gain · B A; afterwards they are W again, to the bit."""
        modules = dict(self.unet.named_modules())
        unknown = set(adapter) - set(modules)
        if unknown:
            raise BadInput(f"The adapter names {sorted(unknown)[0]}, which this base does not have.")
        before = {layer: modules[layer].weight.detach().clone() for layer in adapter}
        try:
            with torch.no_grad():
                for layer, factors in adapter.items():
                    a, b = (torch.from_numpy(np.asarray(m, dtype=np.float32)) for m in (factors.a, factors.b))
                    weight = modules[layer].weight
                    weight.add_((gain * (b @ a)).reshape(weight.shape).to(weight))
            yield
        finally:
            with torch.no_grad():
                for layer, weight in before.items():
                    modules[layer].weight.copy_(weight)


def load_base(folder: Path) -> Base:
    """Load a diffusers Stable Diffusion folder in fp32, on the GPU where there is one.

    Raises:
        BadInput: the folder holds no such pipeline.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} cannot be loaded as a Stable Diffusion pipeline: {error}", "Set `base` to its folder."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    return Base(pipeline.to(device), device)
