"""Distil the collective from its members' adapters, starting where the regression mean ends.

    min over ΔW   Σᵢ wᵢ E ‖f(z, t, c; W + ΔW) − f(z, t, c; W + Δᵢ)‖²      z noised from a picture that i drew from c

The regression mean solves this one layer at a time, each with the inputs that the members' own models give it. In the
merged model every layer reads what the layers before it make, and no layer knows of another's error; here all are
moved together, with the denoiser's answer as the only measure. The adapters answer without noise of their own, so few
steps are enough (Hinton et al. 2015; from generated pictures: Chen et al. 2019, Zhang et al. 2022 in one-shot federated
learning).

What comes out depends on the set of contributions alone: their lessons, their shares, the plan's seed. A removal is
the same computation without one. It is floating point, so another machine gets it within rounding, not to the bit;
the integer sums before it are what is committed to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bases.families import Base
from bases.families.family import Conditioning
from coordinator.distillation.lessons import Lessons
from protocol.adapter import Factors
from protocol.errors import BadInput
from protocol.grant import RoundPlan

WARM_UP = 10
"""Steps over which the learning rate rises; it then falls to nothing along half a cosine."""

Pairs = dict[str, tuple[Tensor, Tensor]]


def distil(
    base: Base,
    start: Mapping[str, Factors],
    lessons: Sequence[Lessons],
    shares: Sequence[float],
    plan: RoundPlan,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict[str, Factors]:
    """Train ``start`` on everybody's lessons; the layers and their ranks stay.

    Args:
        lessons: one for each contribution that teaches, in the order of ``shares``.
        shares: how much each counts, in any unit.
        progress: gets (step, steps, loss of the step).

    Raises:
        BadInput: there are no lessons, or the loss is no number any more.
    """
    if not lessons or not sum(shares):
        raise BadInput("There is no contribution to distil from.")
    pairs = _pairs(start, base.device)
    weights = [factor for pair in pairs.values() for factor in pair]
    steps = plan.distillation_length(sum(share > 0 for share in shares))
    optimizer = torch.optim.AdamW(weights, plan.distillation_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    texts = [base.embed(one.captions) for one in lessons]
    with _attached(base, pairs):
        for step, batch in enumerate(_batches(lessons, shares, plan, steps), start=1):
            loss = _loss(base, lessons, texts, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(step, steps, float(loss.detach()))
    if not all(bool(torch.isfinite(factor).all()) for factor in weights):
        raise BadInput("The distillation came to no number.", "Lower the plan's distillation_rate.")
    return {layer: Factors(_array(a), _array(b), start[layer].kernel) for layer, (a, b) in pairs.items()}


Batch = list[tuple[int, Tensor]]
"""(whose lessons, which of them)."""


def _batches(lessons: Sequence[Lessons], shares: Sequence[float], plan: RoundPlan, steps: int) -> Iterator[Batch]:
    """Each lesson's author by share, each author's lessons in random order, all before one comes again."""
    generator = torch.Generator().manual_seed(plan.seed)
    odds = torch.tensor(shares, dtype=torch.float64)
    waiting = [torch.empty(0, dtype=torch.long)] * len(lessons)
    for _ in range(steps):
        authors = torch.multinomial(odds, plan.batch, replacement=True, generator=generator)
        batch: Batch = []
        for author, count in zip(*(part.tolist() for part in authors.unique(return_counts=True)), strict=True):
            while len(waiting[author]) < count:
                again = torch.randperm(len(lessons[author]), generator=generator)
                waiting[author] = torch.cat([waiting[author], again])
            batch.append((author, waiting[author][:count]))
            waiting[author] = waiting[author][count:]
        yield batch


def _loss(base: Base, lessons: Sequence[Lessons], texts: Sequence[Conditioning], batch: Batch) -> Tensor:
    """Mean squared distance to the adapters' answers."""

    def joined(name: str) -> Tensor:
        rows = [getattr(lessons[author], name)[chosen.numpy()] for author, chosen in batch]
        return torch.from_numpy(np.concatenate(rows)).to(base.device)

    said = [torch.from_numpy(lessons[author].said[chosen.numpy()]).to(base.device) for author, chosen in batch]
    told = [texts[author].rows(rows) for (author, _), rows in zip(batch, said, strict=True)]
    text = Conditioning({name: torch.cat([one.tensors[name] for one in told]) for name in told[0].tensors})
    return (base.predict(joined("noisy"), joined("steps"), text) - joined("answers")).square().mean()


@contextmanager
def _attached(base: Base, pairs: Pairs) -> Iterator[None]:
    """Within, every adapted layer answers W x + B (A x), with a gradient to A and B; the base stays as it is."""
    modules = base.layers
    if unknown := sorted(set(pairs) - set(modules)):
        raise BadInput(f"The merge names {unknown[0]}, which this base does not have.", "Set the round's own base.")
    handles = [modules[layer].register_forward_hook(_adds(*pair)) for layer, pair in pairs.items()]
    try:
        if base.device.type == "cuda":
            base.denoiser.enable_gradient_checkpointing()
        base.denoiser.train()
        yield
    finally:
        base.denoiser.disable_gradient_checkpointing()
        base.denoiser.eval()
        for handle in handles:
            handle.remove()


def _adds(a: Tensor, b: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        x = inputs[0].float()
        if isinstance(module, nn.Conv2d):
            kernel = a.reshape(len(a), -1, *module.kernel_size)
            seen = functional.conv2d(x, kernel, None, module.stride, module.padding, module.dilation)
            return answer + functional.conv2d(seen, b[:, :, None, None]).to(answer.dtype)
        return answer + functional.linear(functional.linear(x, a), b).to(answer.dtype)

    return add


def _pairs(adapter: Mapping[str, Factors], device: torch.device) -> Pairs:
    def own(matrix: Any) -> Tensor:
        return torch.tensor(np.asarray(matrix, np.float32), device=device, requires_grad=True)

    return {layer: (own(factors.a), own(factors.b)) for layer, factors in sorted(adapter.items())}


def _array(factor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return factor.detach().cpu().numpy()


def _rate(step: int, steps: int) -> float:
    """What the learning rate is multiplied by at this step, counted from zero."""
    return float(min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + np.cos(np.pi * step / steps)))
