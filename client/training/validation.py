"""Validation: the loss on held-out tokens at fixed noise while training, and when to stop for it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from bases.families import Base
from bases.families.family import Encoded
from client.training.checkpoint import State
from client.training.scoring import fixed_noise_loss
from protocol.adapter import Array, Factors


class Validation:
    """Losses by step. With patience, the best adapter is kept, and after that many worse looks it is ``over``."""

    def __init__(self, held_out: Sequence[Encoded], seed: int, patience: int) -> None:
        self._held_out, self._seed, self._patience = held_out, seed, patience
        self.losses: dict[int, float] = {}
        self.best: dict[str, Factors] | None = None

    @property
    def newest(self) -> float | None:
        """The last loss that was measured."""
        return next(reversed(self.losses.values()), None)

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        values = list(self.losses.values())
        return self._patience > 0 and bool(values) and len(values) - 1 - int(np.argmin(values)) >= self._patience

    def look(self, base: Base, step: int, factors: Callable[[], dict[str, Factors]]) -> float:
        """Measure the adapter as it is now."""
        loss = self.measure(base)
        if self._patience and loss < min(self.losses.values(), default=np.inf):
            self.best = factors()
        self.losses[step] = loss
        return loss

    def measure(self, base: Base) -> float:
        """Mean loss over all held-out tokens."""
        counts = [len(encoded.latents) for encoded in self._held_out]
        losses = [fixed_noise_loss(base, encoded, self._seed) for encoded in self._held_out]
        return float(np.average(losses, weights=counts))

    def state(self) -> State:
        """For a checkpoint."""
        best = {k: [_tensor(f.a), _tensor(f.b), list(f.kernel)] for k, f in (self.best or {}).items()}
        return {"losses": {str(step): loss for step, loss in self.losses.items()}, "best": best}

    def restore(self, state: State) -> None:
        """The inverse of ``state``."""
        self.losses = {int(step): loss for step, loss in state["losses"].items()}
        best = {k: Factors(a.numpy(), b.numpy(), tuple(kernel)) for k, (a, b, kernel) in state["best"].items()}
        self.best = best or None


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))
