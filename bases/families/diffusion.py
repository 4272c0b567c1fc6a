"""What the epsilon and v-prediction families share: a UNet, and a schedule of ᾱ by whole time steps."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bases.families.family import Base
from protocol.adapter import ADAPTED
from protocol.errors import BadInput


class Diffusion(Base):
    """z = √ᾱ x + √(1 − ᾱ) n, answered by n or by v = √ᾱ n − √(1 − ᾱ) x (Salimans & Ho 2022), as the scheduler says."""

    adapted: ClassVar[tuple[str, ...]] = ADAPTED
    left_out: ClassVar[Mapping[str, Any]] = {"feature_extractor": None, "image_encoder": None}

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        super().__init__(pipeline, device)
        scheduler = pipeline.scheduler
        alphas, predicted = getattr(scheduler, "alphas_cumprod", None), scheduler.config.get("prediction_type")
        if alphas is None or predicted not in ("epsilon", "v_prediction"):
            raise BadInput(
                f"The base learns {predicted} by a {type(scheduler).__name__}, which is not known here.",
                "Use an epsilon or v-prediction base.",
            )
        self._alphas: Tensor = alphas.to(device, torch.float32)  # ᾱ by time step, (levels,)

    @property
    def levels(self) -> int:
        return len(self._alphas)

    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        a = self._alphas[steps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        if self.pipeline.scheduler.config.prediction_type == "epsilon":
            return noisy, noise
        return noisy, a.sqrt() * noise - (1 - a).sqrt() * latents

    def snr(self, steps: Tensor) -> Tensor:
        a = self._alphas[steps]
        return a / (1 - a)
