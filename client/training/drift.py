"""The drift penalty: what an adapter may not move, said in the base's own metric.

    ρ Σ tr(Δ G₀ Δᵀ)        over the adapted layers, G₀ = E[x xᵀ] of a layer's inputs when the base runs alone

This is the mean squared change of each layer's answer to what it reads in the base. It costs r x r work a layer and
needs no prior image. G₀ is kept as low rank plus diagonal, F Fᵀ + diag(d).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bases.families import Base
from bases.statistics import adapted_layers, observe, recipe_of, sketch
from protocol.adapter import input_group
from protocol.grant import RoundPlan

WHOLE_UP_TO = 4


@dataclass(frozen=True)
class Metric:
    """G₀ of one input: ``factor`` (n, k), ``diagonal`` (n,), not normalised; ``whole`` (n, n) where that is quicker."""

    factor: Tensor
    diagonal: Tensor
    whole: Tensor | None = None

    @classmethod
    def of(cls, factor: Tensor, diagonal: Tensor) -> "Metric":
        """Multiplied out as long as it is no more than ``WHOLE_UP_TO`` times as wide as its rank."""
        wide = len(factor) > WHOLE_UP_TO * factor.shape[1]
        return cls(factor, diagonal, None if wide else factor @ factor.T + torch.diag(diagonal))

    def after(self, a: Tensor) -> Tensor:
        """A G₀, (r, n)."""
        return a @ self.whole if self.whole is not None else (a @ self.factor) @ self.factor.T + a * self.diagonal


@dataclass(frozen=True)
class DriftPenalty:
    """ρ and the metric of every adapted layer's input."""

    strength: float
    metrics: Mapping[str, Metric]

    def __call__(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """The penalty of these layers' (A, B): a scalar with gradient."""
        metrics = [self.metrics[input_group(layer)] for layer in pairs]
        matrices = [matrix for pair in pairs.values() for matrix in pair]
        total: Tensor = _Moved.apply(self.strength, metrics, *matrices)
        return total


class _Moved(torch.autograd.Function):
    """ρ Σ tr(B A G₀ Aᵀ Bᵀ) = ρ Σ ⟨P, M⟩ with P = BᵀB, M = A G₀ Aᵀ, and its gradient in closed form.

    Hundreds of small layers cost more in the graph than in the arithmetic, so the gradient is written out: P and M
    are symmetric, and ∂/∂A = 2ρ P A G₀, ∂/∂B = 2ρ B M.
    """

    @staticmethod
    def forward(ctx: Any, strength: float, metrics: Sequence[Metric], *matrices: Tensor) -> Tensor:
        """``matrices`` are A, B of each layer in turn, kernels and all."""
        total, ctx.gradients = torch.zeros((), device=matrices[0].device), []
        for metric, a, b in zip(metrics, matrices[::2], matrices[1::2], strict=True):
            value, to_a, to_b = _moved(strength, metric, a.flatten(1), b.flatten(1))
            total += value
            ctx.gradients += [to_a.reshape(a.shape), to_b.reshape(b.shape)]
        return strength * total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients are known already."""
        return None, None, *torch._foreach_mul(ctx.gradients, outer[0])


def _moved(strength: float, metric: Metric, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's tr(B A G₀ Aᵀ Bᵀ), and ρ times its gradients to A (r, n) and B (m, r)."""
    seen, p = metric.after(a), b.T @ b
    m = seen @ a.T
    return torch.dot(p.flatten(), m.flatten()), (2 * strength * p) @ seen, b @ (2 * strength * m)


def drift_penalty(base: Base, captions: Sequence[str], plan: RoundPlan) -> DriftPenalty:
    """Observe the base on pictures that it draws itself from public captions."""
    recipe = recipe_of(plan, captions)
    metrics = {}
    for group, moment in observe(base, {}, adapted_layers(base), captions, recipe).items():
        mean = moment.sum / moment.rows
        unit = sketch(mean, recipe.rank)
        factor, diagonal = (torch.from_numpy(m).to(base.device) for m in (unit.factor, unit.diagonal))
        scale = float(mean.trace())
        metrics[group] = Metric.of(factor * scale**0.5, diagonal * scale)
    return DriftPenalty(plan.drift, metrics)


def adapted_pairs(base: Base, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Every adapted layer's live (A, B) of the peft adapter ``name``."""
    return {layer: (a.weight, b.weight) for layer, (a, b) in adapted_modules(base, name).items()}


def adapted_modules(base: Base, name: str) -> dict[str, tuple[Any, Any]]:
    """The modules that hold them."""
    layers = ((layer, module) for layer, module in base.layers.items() if name in getattr(module, "lora_A", {}))
    return {layer: (module.lora_A[name], module.lora_B[name]) for layer, module in layers}
