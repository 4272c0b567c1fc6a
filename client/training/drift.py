"""The drift penalty: what an adapter may not move, said in the base's own metric.

    ρ Σ tr(Δ G₀ Δᵀ)        over the adapted layers, G₀ = E[x xᵀ] of a layer's inputs when the base runs alone

This is the mean squared change of each layer's answer to what it reads in the base. It costs r x r work a layer and
needs no prior image. G₀ is kept as low rank plus diagonal, F Fᵀ + diag(d).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.training.families import Base
from client.training.statistics import observe, recipe_of, sketch
from protocol.adapter import input_group
from protocol.grant import RoundPlan


@dataclass(frozen=True)
class Metric:
    """G₀ of one input: ``factor`` (n, k), ``diagonal`` (n,), not normalised."""

    factor: Tensor
    diagonal: Tensor


@dataclass(frozen=True)
class DriftPenalty:
    """ρ and the metric of every adapted layer's input."""

    strength: float
    metrics: Mapping[str, Metric]

    def __call__(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """The penalty of these layers' (A, B), kernels flattened: a scalar with gradient."""
        total = sum(
            (self._moved(layer, a.flatten(1), b.flatten(1)) for layer, (a, b) in pairs.items()), torch.zeros(())
        )
        return self.strength * total

    def _moved(self, layer: str, a: Tensor, b: Tensor) -> Tensor:
        """tr(B A G₀ Aᵀ Bᵀ) = ⟨BᵀB, A G₀ Aᵀ⟩."""
        metric = self.metrics[input_group(layer)]
        seen = a @ metric.factor
        return ((b.T @ b) * (seen @ seen.T + (a * metric.diagonal) @ a.T)).sum()


def drift_penalty(base: Base, captions: Sequence[str], plan: RoundPlan) -> DriftPenalty:
    """Observe the base on pictures that it draws itself from public captions."""
    recipe = recipe_of(plan)
    metrics = {}
    for group, moment in observe(base, {}, adapted_layers(base), captions, recipe).items():
        mean = moment.sum / moment.rows
        unit = sketch(mean, recipe.rank)
        factor, diagonal = (torch.from_numpy(m).to(base.device) for m in (unit.factor, unit.diagonal))
        scale = float(mean.trace())
        metrics[group] = Metric(factor * scale**0.5, diagonal * scale)
    return DriftPenalty(plan.drift, metrics)


def adapted_layers(base: Base) -> list[str]:
    """The names of the layers that an adapter of this base has."""
    ends = tuple(f".{end}" for end in base.adapted)
    return [name for name, _ in base.denoiser.named_modules() if f".{name}".endswith(ends)]


def adapted_pairs(denoiser: nn.Module, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Every adapted layer's live (A, B) of the peft adapter ``name``."""
    layers = ((path, module) for path, module in denoiser.named_modules() if name in getattr(module, "lora_A", {}))
    return {path: (module.lora_A[name].weight, module.lora_B[name].weight) for path, module in layers}
