"""What every family answers to: a frozen base that encodes examples, noises latents, predicts and draws."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.adapter import Factors, layer_in
from protocol.errors import BadInput

Picture = NDArray[np.uint8]
"""(height, width, 3), sRGB."""
Size = tuple[int, int]
"""Height and width in pixels."""
_PICTURES_AT_ONCE = 8


class Captioned(Protocol):
    """A picture and what is said of it."""

    @property
    def picture(self) -> Picture:
        """At the size at which it is encoded."""
        ...

    @property
    def caption(self) -> str:
        """All that is said."""
        ...


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told beside latents and time step: tensors by name, each (n, …)."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def rows(self, index: Tensor) -> "Conditioning":
        """The rows with these numbers (n',)."""
        return Conditioning({name: tensor[index] for name, tensor in self.tensors.items()})

    def repeated(self, count: int) -> "Conditioning":
        """One row, ``count`` times."""
        return Conditioning({name: t.expand(count, *t.shape[1:]) for name, t in self.tensors.items()})

    def where(self, mask: Tensor, other: "Conditioning") -> "Conditioning":
        """This one's rows where ``mask`` (n,) is false, ``other``'s single row where it is true."""
        return Conditioning(
            {
                n: torch.where(mask.reshape(-1, *(1,) * (t.ndim - 1)), other.tensors[n], t)
                for n, t in self.tensors.items()
            }
        )


@dataclass(frozen=True)
class Encoded:
    """Examples as the denoiser takes them: ``latents`` (n, c, h, w), their text, and the empty caption (1 row)."""

    latents: Tensor
    text: Conditioning
    empty: Conditioning


class Base(ABC):
    """A diffusers pipeline with every weight frozen, on one device.

    The denoiser may be in fp32, bf16 or fp16; latents, noise and answers are fp32. Time steps are whole numbers in
    [0, ``levels``), noise growing with them, in every family.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    """Class names in ``model_index.json`` that mean this family."""
    component: ClassVar[str] = "unet"
    """The denoiser's name in the pipeline, and before every key of an adapter's file."""
    adapted: ClassVar[tuple[str, ...]]
    """Ends of the names of the layers that are adapted."""
    left_out: ClassVar[Mapping[str, Any]] = {}
    """Arguments of ``from_pretrained`` that leave out what neither training nor measuring needs.

    Every folder that ``base_hash`` does not count must be left out, so that what is loaded is what is bound.
    """

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.pipeline, self.device = pipeline, device

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer, which alone is adapted: a ``ModelMixin`` with peft's adapter methods."""
        return getattr(self.pipeline, self.component)

    @property
    def layers(self) -> dict[str, Any]:
        """The denoiser's modules by the names that an adapter has for them."""
        return {layer_in(self.component, path): module for path, module in self.denoiser.named_modules()}

    @property
    def size(self) -> Size:
        """Of the pictures that the base draws of itself."""
        height, width = self._latent_size
        factor = int(self.pipeline.vae_scale_factor)
        return height * factor, width * factor

    @property
    @abstractmethod
    def levels(self) -> int:
        """The number of time steps in the noise schedule."""

    @abstractmethod
    def embed(self, captions: Sequence[str], size: Size | None = None) -> Conditioning:
        """Captions → what the denoiser is told of them, of pictures of ``size``; None is the base's own."""

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latents at ``steps`` (n,), and what the denoiser should answer to them."""

    @abstractmethod
    def snr(self, steps: Tensor) -> Tensor:
        """Signal-to-noise ratio at ``steps`` (n,), as a power ratio: ᾱ / (1 − ᾱ)."""

    @abstractmethod
    def ask(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The answer at time steps as the base's scheduler counts them, one for all or (n,); shaped as ``noisy``."""

    def predict(self, noisy: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
        """The denoiser's answer, shaped as ``noisy``."""
        return self.ask(noisy, steps, text)

    @torch.no_grad()
    def draw_latents(
        self,
        text: Conditioning,
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int], None] = lambda step: None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw from conditioning alone, deterministically: latents (n, c, h, w). Guidance 1 is none.

        By the base's own scheduler, as its pipeline does; guidance after Ho & Salimans 2022. No steps leave the noise.
        """
        empty = self.embed([""]).repeated(len(text)) if guidance != 1.0 else None
        shape = (len(text), self.denoiser.config.in_channels, *self._latent_size)
        latents = torch.randn(shape, generator=generator, device=self.device)
        if steps == 0:
            return latents
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        # Schedulers that add noise on the way take it from the generator, so that all of it is the seed's.
        chance = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        for done, step in enumerate(scheduler.timesteps, start=1):
            noisy = scheduler.scale_model_input(latents, step) if hasattr(scheduler, "scale_model_input") else latents
            guess = self.ask(noisy, step, text)
            if empty is not None:
                unguided = self.ask(noisy, step, empty)
                guess = unguided + guidance * (guess - unguided)
            latents = scheduler.step(guess, step, latents, **chance).prev_sample
            progress(done)
        return latents

    @torch.no_grad()
    def encode(self, examples: Sequence[Captioned]) -> Encoded:
        """Pictures of one size to latents, captions to text, once: no encoder is trained."""
        size: Size = examples[0].picture.shape[:2]
        latents = self.encode_pictures([e.picture for e in examples])
        return Encoded(latents, self.embed([e.caption for e in examples], size), self.embed([""], size))

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures of one size → latents (n, c, h, w), the mean of the posterior."""
        parts = torch.from_numpy(np.stack(pictures)).split(_PICTURES_AT_ONCE)
        return torch.cat([self._latents_of(part.to(self.device)) for part in parts])

    def _latents_of(self, pixels: Tensor) -> Tensor:
        """uint8 (n, height, width, 3) → latents (n, c, h, w)."""
        vae = self.pipeline.vae
        scaled = pixels.permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        means = vae.encode(scaled).latent_dist.mean.float()
        return (means - self._latent_shift) * vae.config.scaling_factor

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents → uint8 (n, height, width, 3)."""
        return np.concatenate([self._pixels_of(part) for part in latents.split(_PICTURES_AT_ONCE)])

    def _pixels_of(self, latents: Tensor) -> NDArray[np.uint8]:
        vae = self.pipeline.vae
        pixels = vae.decode((latents / vae.config.scaling_factor + self._latent_shift).to(vae.dtype)).sample
        whole = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return whole.permute(0, 2, 3, 1).cpu().numpy()

    @property
    def _latent_size(self) -> tuple[int, int]:
        size = self.denoiser.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def _latent_shift(self) -> float:
        return float(getattr(self.pipeline.vae.config, "shift_factor", None) or 0.0)

    @contextmanager
    def under(self, adapter: Mapping[str, Factors], gain: float = 1.0) -> Iterator[None]:
        """Within, the denoiser's weights are W + gain · B A; afterwards they are W again, to the bit."""
        modules = self.layers
        unknown = set(adapter) - set(modules)
        if unknown:
            raise BadInput(
                f"The adapter names {sorted(unknown)[0]}, which this base does not have.",
                "Use the base that it was trained on.",
            )
        weights = {layer: modules[layer].weight for layer in adapter}
        before = {layer: weight.detach().clone() for layer, weight in weights.items()}
        try:
            with torch.no_grad():
                for layer, factors in adapter.items():
                    weight = weights[layer]
                    a, b = (torch.from_numpy(np.asarray(m, np.float32)).to(self.device) for m in (factors.a, factors.b))
                    weight.add_((gain * (b @ a)).reshape(weight.shape).to(weight.dtype))
            yield
        finally:
            with torch.no_grad():
                for layer, weight in before.items():
                    weights[layer].copy_(weight)
