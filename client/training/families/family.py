"""What every family answers to: a frozen base that encodes examples, noises latents, predicts and draws."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.collection.example import Example, Picture
from protocol.adapter import Factors
from protocol.errors import BadInput


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

    Time steps are whole numbers in [0, ``levels``), noise growing with them, in every family.
    """

    pipelines: ClassVar[tuple[str, ...]]
    """Class names in ``model_index.json`` that mean this family."""
    component: ClassVar[str] = "unet"
    """The denoiser's name in the pipeline, and before every key of an adapter's file."""
    adapted: ClassVar[tuple[str, ...]]
    """Ends of the names of the layers that are adapted."""
    left_out: ClassVar[Mapping[str, Any]] = {}
    """Arguments of ``from_pretrained`` that leave out what neither training nor measuring needs."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.pipeline, self.device = pipeline, device

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer, which alone is adapted: a ``ModelMixin`` with peft's adapter methods."""
        return getattr(self.pipeline, self.component)

    @property
    @abstractmethod
    def levels(self) -> int:
        """The number of time steps in the noise schedule."""

    @abstractmethod
    def embed(self, captions: Sequence[str]) -> Conditioning:
        """Captions → what the denoiser is told of them, at the base's own picture size."""

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latents at ``steps`` (n,), and what the denoiser should answer to them."""

    @abstractmethod
    def snr(self, steps: Tensor) -> Tensor:
        """Signal-to-noise ratio at ``steps`` (n,), as a power ratio: ᾱ / (1 − ᾱ)."""

    @abstractmethod
    def predict(self, noisy: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
        """The denoiser's answer, shaped as ``noisy``."""

    @abstractmethod
    def draw_latents(
        self,
        text: Conditioning,
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int], None] = lambda step: None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw from conditioning alone, deterministically: latents (n, c, h, w). Guidance 1 is none."""

    @torch.no_grad()
    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Pictures of one size to latents, captions to text, once: no encoder is trained."""
        latents = self.encode_pictures([e.picture for e in examples])
        return Encoded(latents, self.embed([e.caption for e in examples]), self.embed([""]))

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures of one size → latents (n, c, h, w), the mean of the posterior."""
        vae = self.pipeline.vae
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device)
        scaled = pixels.permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        means = vae.encode(scaled).latent_dist.mean.float()
        return (means - self._latent_shift) * vae.config.scaling_factor

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents → uint8 (n, height, width, 3)."""
        vae = self.pipeline.vae
        pixels = vae.decode((latents / vae.config.scaling_factor + self._latent_shift).to(vae.dtype)).sample
        whole = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return whole.permute(0, 2, 3, 1).cpu().numpy()

    @property
    def _latent_shift(self) -> float:
        return float(getattr(self.pipeline.vae.config, "shift_factor", None) or 0.0)

    @contextmanager
    def under(self, adapter: Mapping[str, Factors], gain: float = 1.0) -> Iterator[None]:
        """Within, the denoiser's weights are W + gain · B A; afterwards they are W again, to the bit."""
        modules = dict(self.denoiser.named_modules())
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
