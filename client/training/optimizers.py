"""The optimizer and its schedule, from torch or from a library that the member installed."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from client.training.options import TrainingOptions
from protocol.errors import BadInput


def build_optimizer(weights: Sequence[Parameter], learning_rate: float, options: TrainingOptions) -> Optimizer:
    """Without weight decay: what an adapter may not move is the drift penalty's affair.

    Raises:
        BadInput: the optimizer's library is not installed.
    """
    if options.optimizer == "adamw8bit":
        return _from("bitsandbytes", "optim.AdamW8bit")(weights, lr=learning_rate, weight_decay=0.0)
    if options.optimizer == "prodigy":
        # Prodigy finds the step size itself; its learning rate is a factor of that (Mishchenko & Defazio 2023).
        return _from("prodigyopt", "Prodigy")(weights, lr=1.0, weight_decay=0.0)
    # foreach gives the same bits as the plain loop over tensors in a third less time.
    return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0, foreach=True)


def build_schedule(optimizer: Optimizer, steps: int, options: TrainingOptions) -> LRScheduler:
    """The learning rate of each of ``steps`` steps."""
    if options.schedule == "cosine" and not options.warmup:
        return CosineAnnealingLR(optimizer, steps)
    return LambdaLR(optimizer, lambda done: factor(done, steps, options))


def factor(done: int, steps: int, options: TrainingOptions) -> float:
    """The share of the full learning rate after ``done`` of ``steps`` steps."""
    if done < options.warmup:
        return (done + 1) / (options.warmup + 1)
    way = min(1.0, (done - options.warmup) / max(1, steps - options.warmup))
    match options.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - way
        case _:
            return float((1 + torch.cos(torch.tensor(torch.pi * way))) / 2)


def _from(library: str, path: str) -> Callable[..., Any]:
    try:
        found: Any = import_module(library)
    except ImportError as error:
        raise BadInput(
            f"The optimizer needs {library}, which is not installed.",
            f"Install it (pip install {library}), or take `optimizer` back to adamw.",
        ) from error
    for name in path.split("."):
        found = getattr(found, name)
    return found
