"""Number formats: the frozen weights and the arithmetic in fewer bits, the adapter and its optimizer in fp32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from bases.families import Base

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_format(device: torch.device) -> str:
    """What "auto" is where nothing was timed."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Within, matrix products and convolutions run in this format."""
    return torch.autocast(device.type, FORMATS[precision], enabled=precision != "fp32")


@contextmanager
def frozen_in(base: Base, precision: str) -> Iterator[None]:
    """Within, the denoiser's frozen matrices and kernels are kept in this format; afterwards they are as before.

    On a GPU the originals wait in main memory. Norms and biases stay fp32: they are small and easily overflow.
    """
    if precision == "fp32":
        yield
        return
    frozen = [p for p in base.denoiser.parameters() if not p.requires_grad and p.ndim > 1]
    before = [p.data.cpu() for p in frozen]  # on a CPU these are the tensors themselves
    try:
        for parameter in frozen:
            parameter.data = parameter.data.to(FORMATS[precision])
        yield
    finally:
        for parameter, original in zip(frozen, before, strict=True):
            parameter.data = original.to(base.device)
