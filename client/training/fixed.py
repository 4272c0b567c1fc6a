"""Training between factors that are the round's own and never move: what private modes add up.

Within ``descent.adapting``. With ``Learned.B`` peft's A is put in place and frozen; with ``Learned.CORE`` B is B₀ R as
well, and R alone is trained, from zero.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from bases.families import Base
from bases.statistics import adapted_layers
from protocol.adapter import Adapter, component_of
from protocol.fixed_factors import FixedFactors, FixedLayer
from protocol.grant import RoundPlan
from protocol.modes import FloatArray, Learned, Mode


def fixed_factors(base: Base, base_hash: str, plan: RoundPlan) -> FixedFactors | None:
    """The factors that everybody in the round has. None in an open round."""
    if plan.mode is Mode.OPEN:
        return None
    shapes = {name: tuple(base.layers[name].weight.shape) for name in adapted_layers(base)}
    return FixedFactors.of(plan, base_hash, shapes)


def ranks(factors: FixedFactors) -> dict[str, int]:
    """The rank of each layer that is narrower than the plan's, by the module's name in the denoiser."""
    named = ((component_of(layer.name)[1], factors.rank_in(layer)) for layer in factors.layers)
    return {name: rank for name, rank in named if rank < factors.rank}


def fix(base: Base, factors: FixedFactors, adapter: str) -> None:
    """Put the fixed factors into the fresh peft adapter of this name; only B, or R, still needs a gradient."""
    for layer in factors.layers:
        module = base.layers[layer.name]
        a, b = module.lora_A[adapter], module.lora_B[adapter]
        with torch.no_grad():
            a.weight.copy_(torch.from_numpy(factors.a(layer).astype(np.float32)).reshape(a.weight.shape))
        a.weight.requires_grad_(False)
        if factors.learned is Learned.CORE:
            register_parametrization(b, "weight", _Core(factors, layer, b.weight), unsafe=True)


def update_of(factors: FixedFactors, adapter: Adapter) -> FloatArray:
    """What was trained, (size,): B, or R = B₀ᵀ B since B₀'s columns are orthonormal."""
    parts = {}
    for layer in factors.layers:
        b = adapter[layer.name].b.astype(np.float64)
        parts[layer.name] = factors.b(layer).astype(np.float64).T @ b if factors.learned is Learned.CORE else b
    return factors.flat(parts)


class _Core(nn.Module):
    """B = B₀ R as torch sees it: ``forward`` takes R (r, r), and peft reads B in the shape that it knows."""

    fixed: Tensor

    def __init__(self, factors: FixedFactors, layer: FixedLayer, weight: Tensor) -> None:
        super().__init__()
        self._shape = tuple(weight.shape)
        fixed = torch.from_numpy(factors.b(layer).astype(np.float32)).to(weight.device)
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, core: Tensor) -> Tensor:
        """(r, r) → (d_out, r), with the ones of a convolution's kernel."""
        return (self.fixed @ core).reshape(self._shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The R of a B in B₀'s span; a fresh B is zero."""
        return self.fixed.T @ weight.flatten(1)
