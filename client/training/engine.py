"""Fine-tune a LoRA adapter with peft on the frozen base."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from client.collection.example import Example
from client.training.drift import DriftPenalty, adapted_pairs, drift_penalty
from client.training.families import Base
from client.training.families.family import Encoded
from protocol.adapter import Factors
from protocol.contribution import Training
from protocol.errors import BadInput
from protocol.grant import RoundPlan

EMPTY_CAPTION_SHARE = 0.1
_NAME = "coterie"


@dataclass(frozen=True)
class TrainingProgress:
    """One line of progress. ``stage`` is a word a person understands."""

    stage: str
    step: int
    steps: int
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The adapter, scale folded in, and how training went."""

    adapter: dict[str, Factors]
    training: Training


def train(
    base: Base, examples: Sequence[Example], plan: RoundPlan, progress: Callable[[TrainingProgress], None]
) -> Trained:
    """Train on ``examples``; the same seed on the same machine gives the same adapter.

    Raises:
        BadInput: there is nothing to train on.
    """
    if not examples:
        raise BadInput("There is no image to train on.", "Include at least one token.")
    begin = time.monotonic()
    encoded = base.encode(examples)
    penalty = drift_penalty(base, [e.caption for e in examples], plan) if plan.drift else None
    torch.manual_seed(plan.seed)  # peft draws A from the global generator
    config = LoraConfig(r=plan.rank, lora_alpha=plan.rank, target_modules=list(base.adapted))
    base.denoiser.add_adapter(config, adapter_name=_NAME)
    try:
        base.denoiser.train()
        losses = _descend(base, encoded, plan, penalty, lambda s, loss: progress(_line(s, plan, loss, begin)))
        adapter = _factors(base)
    finally:
        base.denoiser.unload_lora()
        base.denoiser.eval().requires_grad_(False)
    window = max(1, len(losses) // 10)
    return Trained(
        adapter,
        Training(
            steps=plan.steps,
            seconds=round(time.monotonic() - begin, 3),
            device=base.device.type,
            first_loss=float(np.mean(losses[:window])),
            last_loss=float(np.mean(losses[-window:])),
        ),
    )


def _descend(
    base: Base, encoded: Encoded, plan: RoundPlan, penalty: DriftPenalty | None, report: Callable[[int, float], None]
) -> list[float]:
    """AdamW with a cosine to zero; returns the denoising loss of every step."""
    generator = torch.Generator(base.device).manual_seed(plan.seed)
    weights = [p for p in base.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    order, losses = _Order(len(encoded.latents), plan.batch, generator), []
    pairs = adapted_pairs(base.denoiser, _NAME)
    for step in range(1, plan.steps + 1):
        loss = _loss(base, encoded, next(order), generator)
        optimizer.zero_grad(set_to_none=True)
        (loss + penalty(pairs) if penalty else loss).backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        report(step, losses[-1])
    return losses


def _loss(base: Base, encoded: Encoded, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Denoising loss of one batch, each member of it at its own time step."""
    device, count = base.device, len(rows)
    latents = encoded.latents[rows]
    noise = torch.randn(latents.shape, generator=generator, device=device)
    steps = torch.randint(base.levels, (count,), generator=generator, device=device)
    dropped = torch.rand(count, generator=generator, device=device) < EMPTY_CAPTION_SHARE
    text = encoded.text.rows(rows).where(dropped, encoded.empty)
    noisy, target = base.noised(latents, noise, steps)
    return (base.predict(noisy, steps, text) - target).square().mean()


class _Order:
    """Endless batches of row numbers; every row comes once before any comes twice."""

    def __init__(self, rows: int, batch: int, generator: torch.Generator) -> None:
        self._rows, self._batch, self._generator = rows, batch, generator
        self._queue = torch.empty(0, dtype=torch.long, device=generator.device)

    def __next__(self) -> Tensor:
        while len(self._queue) < self._batch:
            more = torch.randperm(self._rows, generator=self._generator, device=self._generator.device)
            self._queue = torch.cat([self._queue, more])
        batch, self._queue = self._queue[: self._batch], self._queue[self._batch :]
        return batch


def _factors(base: Base) -> dict[str, Factors]:
    """peft's state as plain pairs: alpha equals rank, so the scale is one and nothing needs folding."""
    state = get_peft_model_state_dict(base.denoiser, adapter_name=_NAME)
    layers = sorted(key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight"))
    return {layer: _pair(state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"]) for layer in layers}


def _pair(a: Tensor, b: Tensor) -> Factors:
    kernel = tuple(a.shape[2:])
    flat_a, flat_b = (m.detach().cpu().float().reshape(m.shape[0], -1).numpy().copy() for m in (a, b))
    return Factors(flat_a, flat_b, kernel)


def _line(step: int, plan: RoundPlan, loss: float, begin: float) -> TrainingProgress:
    return TrainingProgress("training", step, plan.steps, loss, time.monotonic() - begin)
