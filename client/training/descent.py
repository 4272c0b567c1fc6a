"""Training under way: one step after the other, and the state in between."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor

from bases.families import Base
from client.training.batches import Batches
from client.training.checkpoint import State, optimizer_state, restore_optimizer
from client.training.drift import DriftPenalty, adapted_modules
from client.training.fixed import fix, ranks
from client.training.losses import DenoisingLoss, Draw
from client.training.optimizers import build_optimizer, build_schedule
from client.training.options import TrainingOptions
from client.training.precision import arithmetic, best_format, frozen_in
from protocol.adapter import Factors
from protocol.errors import BadInput
from protocol.fixed_factors import FixedFactors
from protocol.grant import RoundPlan
from protocol.modes import Mode

NAME = "coterie"


@contextmanager
def adapting(
    base: Base, plan: RoundPlan, options: TrainingOptions, fixed: FixedFactors | None = None
) -> Iterator[None]:
    """Within, the denoiser has a fresh adapter and is ready to train; afterwards the base is as it was.

    ``fixed`` are the factors of a private round, which are not trained.
    """
    torch.manual_seed(plan.seed)  # peft draws A from the global generator
    rank = rank_of(plan, options)
    narrow = ranks(fixed) if fixed else {}
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(base.adapted), rank_pattern=narrow, alpha_pattern=narrow
    )
    base.denoiser.add_adapter(config, adapter_name=NAME)
    cast_training_params(base.denoiser, torch.float32)  # peft makes them in the frozen weights' own format
    try:
        if fixed:
            fix(base, fixed, NAME)
        if options.gradient_checkpointing:
            base.denoiser.enable_gradient_checkpointing()
        base.denoiser.train()
        with frozen_in(base, format_of(base, options)):
            yield
    finally:
        base.denoiser.disable_gradient_checkpointing()
        base.denoiser.unload_lora()
        base.denoiser.eval().requires_grad_(False)


def rank_of(plan: RoundPlan, options: TrainingOptions) -> int:
    """The member's own rank, at most the plan's; where factors are fixed, the plan's."""
    if plan.mode is not Mode.OPEN:
        return plan.rank
    return min(options.rank or plan.rank, plan.rank)


def format_of(base: Base, options: TrainingOptions) -> str:
    """The number format that is meant by the options."""
    return best_format(base.device) if options.precision == "auto" else options.precision


class Descent:
    """Everything that changes from step to step, within ``adapting``.

    ``note`` gets a sentence when memory ran out and the step is made smaller.
    """

    def __init__(
        self,
        base: Base,
        batches: Batches,
        plan: RoundPlan,
        options: TrainingOptions,
        penalty: DriftPenalty | None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.base, self.done, self.losses = base, 0, torch.zeros(plan.steps, device=base.device)
        self._batches, self._penalty, self._note = batches, penalty, note
        self._modules = adapted_modules(base, NAME)
        self._weights = [p for p in base.denoiser.parameters() if p.requires_grad]
        self._loss = DenoisingLoss(base, plan)
        self._optimizer = build_optimizer(self._weights, plan.learning_rate, options)
        self._schedule = build_schedule(self._optimizer, plan.steps, options)
        self._format = format_of(base, options)
        self._scaler = torch.amp.GradScaler(base.device.type, enabled=self._format == "fp16")
        self._parts = min(options.gradient_accumulation, plan.batch)

    @property
    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read anew each time: a B that is made of a core is another tensor after every step."""
        return {layer: (a.weight, b.weight) for layer, (a, b) in self._modules.items()}

    def step(self) -> None:
        """One step of the optimizer on one batch of the plan."""
        loss = self._gradient(next(self._batches))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self.losses[self.done] = loss
        self.done += 1

    def arithmetic(self) -> AbstractContextManager[object]:
        """What the denoiser runs in, for whoever asks it something between steps."""
        return arithmetic(self.base.device, self._format)

    def factors(self) -> dict[str, Factors]:
        """The adapter as plain pairs: alpha equals rank, so the scale is one and nothing needs folding."""
        return {layer: _pair(*pair) for layer, pair in sorted(self._pairs.items())}

    def state(self) -> State:
        """All that the next step depends on, and the losses so far."""
        return {
            "done": self.done,
            "losses": self.losses,
            "adapter": self._weights,
            "optimizer": optimizer_state(self._optimizer),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "batches": self._batches.state(),
            "parts": self._parts,
        }

    def restore(self, state: State) -> None:
        """Go on where ``state`` was taken."""
        self.done, self._parts = state["done"], state["parts"]
        self.losses.copy_(state["losses"])
        with torch.no_grad():
            for weight, kept in zip(self._weights, state["adapter"], strict=True):
                weight.copy_(kept)
        restore_optimizer(self._optimizer, state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._batches.restore(state["batches"])

    def _gradient(self, draw: Draw) -> Tensor:
        """Leave the gradient in the weights; return the batch's denoising loss. Smaller parts where memory is short."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._in_parts(draw)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                problem = str(error)
            # Outside the handler, so that the failed step's tensors are free again.
            self._make_room(len(draw), problem)

    def _in_parts(self, draw: Draw) -> Tensor:
        """Mean over parts that are computed one after the other, each with its share of the batch."""
        if self._parts == 1:
            return self._backward(draw, 1.0, self._penalty)
        total = torch.zeros((), device=self.base.device)
        for number, rows in enumerate(torch.arange(len(draw), device=self.base.device).tensor_split(self._parts)):
            share = len(rows) / len(draw)
            total += share * self._backward(draw.part(rows), share, None if number else self._penalty)
        return total

    def _backward(self, draw: Draw, share: float, penalty: DriftPenalty | None) -> Tensor:
        with self.arithmetic():
            loss = self._loss(draw)
        shared = loss if share == 1.0 else share * loss
        self._scaler.scale(shared + penalty(self._pairs) if penalty else shared).backward()
        return loss.detach()

    def _make_room(self, batch: int, problem: str) -> None:
        """Half as many pictures at once; where it is one already, activations are computed twice instead."""
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._parts < batch:
            self._parts = min(2 * self._parts, batch)
            self._note(
                f"Memory ran out; each batch of {batch} now goes in {self._parts} parts, which changes nothing but "
                f"time. Set gradient_accumulation to {self._parts} to start that way."
            )
        elif not self.base.denoiser.is_gradient_checkpointing:
            self.base.denoiser.enable_gradient_checkpointing()
            self._note("Memory ran out; activations are now computed twice. Set gradient_checkpointing to start so.")
        else:
            raise BadInput(
                f"Not even one picture at a time fits into this machine's memory: {problem.splitlines()[0]}",
                "Close other programs, set precision to bf16, or train on a smaller base or a larger machine.",
            )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch said that memory is short: on a GPU by type, on a CPU in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _pair(a: Tensor, b: Tensor) -> Factors:
    kernel = tuple(a.shape[2:])
    flat_a, flat_b = (m.detach().cpu().float().reshape(m.shape[0], -1).numpy().copy() for m in (a, b))
    return Factors(flat_a, flat_b, kernel)
