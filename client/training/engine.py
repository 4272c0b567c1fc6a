"""Fine-tune a LoRA adapter with peft on the frozen base: from examples to an adapter, whatever comes in between."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bases.families import Base
from client.collection.example import Example
from client.training.batches import Batches, buckets_of, by_size, encode
from client.training.cache import Cache
from client.training.checkpoint import State, load_checkpoint, save_checkpoint
from client.training.descent import Descent, adapting, format_of, rank_of
from client.training.drift import drift_penalty
from client.training.metrics import Metrics
from client.training.options import TrainingOptions
from client.training.sheet import save_sheet
from client.training.validation import Validation
from protocol.adapter import Factors
from protocol.canonical import canonical, sha256
from protocol.contribution import Training
from protocol.errors import BadInput
from protocol.fixed_factors import FixedFactors
from protocol.grant import RoundPlan

SAMPLES = "samples"
SHOWN = 8
SAMPLE_STEPS = 20


@dataclass(frozen=True)
class TrainingProgress:
    """One line of progress. ``stage`` is a word a person understands."""

    stage: str
    step: int
    steps: int
    loss: float | None
    seconds: float
    """Since training began; since the stage began in any other stage."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = None
    """The most that was used so far: of the GPU where there is one, else by this process."""
    validation: float | None = None
    """The newest loss on held-out tokens at fixed noise."""
    note: str = ""
    """A sentence about something that a person should know."""


@dataclass(frozen=True)
class Workspace:
    """Where training may write: the round's own folder, a cache that rounds share, and the hash of the base."""

    folder: Path
    cache: Path
    base: str


@dataclass(frozen=True)
class Trained:
    """The adapter, scale folded in, and how training went."""

    adapter: dict[str, Factors]
    training: Training


def train(
    base: Base,
    examples: Sequence[Example],
    plan: RoundPlan,
    progress: Callable[[TrainingProgress], None],
    *,
    options: TrainingOptions | None = None,
    held_out: Sequence[Example] = (),
    workspace: Workspace | None = None,
    fixed: FixedFactors | None = None,
) -> Trained:
    """Train on ``examples``, in as many steps as the plan has for so many; the same seed on the same machine gives the
    same adapter.

    ``held_out`` is for validation alone, ``fixed`` the factors of a private round. Without a ``workspace`` nothing is
    written: no checkpoint, no samples.

    Raises:
        BadInput: there is nothing to train on, or not one picture fits into memory.
    """
    if not examples:
        raise BadInput("There is no image to train on.", "Include at least one token.")
    sized = plan.sized(len(examples))
    return _Run(base, examples, sized, progress, options or TrainingOptions(), held_out, workspace, fixed).train()


def prepare(base: Base, examples: Sequence[Example], plan: RoundPlan, cache: Cache | None = None) -> Batches:
    """Encode everything that is trained on."""
    return Batches(base, buckets_of(base, examples, plan, cache or Cache()), plan)


@dataclass
class _Run:
    """One call of ``train``: the descent, and what happens beside it at some of its steps."""

    base: Base
    examples: Sequence[Example]
    plan: RoundPlan
    progress: Callable[[TrainingProgress], None]
    options: TrainingOptions
    held_out: Sequence[Example]
    workspace: Workspace | None
    fixed: FixedFactors | None
    began: float = field(default_factory=time.monotonic)

    def train(self) -> Trained:
        cache = Cache(self.workspace.cache, self.workspace.base) if self.workspace else Cache()
        batches = prepare(self.base, self.examples, self.plan, cache)
        captions = [e.caption for e in self.examples]
        penalty = drift_penalty(self.base, captions, self.plan) if self.plan.drift else None
        held_out = [encode(self.base, group, cache) for group in by_size(self.held_out)]
        self._note = ""
        with adapting(self.base, self.plan, self.options, self.fixed), Metrics(self._folder) as metrics:
            descent = Descent(self.base, batches, self.plan, self.options, penalty, self._say)
            validation = Validation(held_out, self.plan.seed, self.options.early_stop)
            self._resume(descent, validation)
            adapter = self._descend(descent, validation, metrics)
        losses = [float(loss) for loss in descent.losses[: descent.done].cpu()]
        window = max(1, len(losses) // 10)
        return Trained(
            adapter,
            Training(
                steps=descent.done,
                seconds=round(time.monotonic() - self.began, 3),
                device=self.base.device.type,
                first_loss=float(np.mean(losses[:window])),
                last_loss=float(np.mean(losses[-window:])),
            ),
        )

    def _descend(self, descent: Descent, validation: Validation, metrics: Metrics) -> dict[str, Factors]:
        start, first = time.monotonic(), descent.done
        # Reading a loss waits for a GPU, so there it is not done after every step.
        look_every = 1 if self.base.device.type == "cpu" else 10
        while descent.done < self.plan.steps and not validation.over:
            descent.step()
            done, last = descent.done, descent.done == self.plan.steps
            if _due(done, self.options.validate_every, last) and self.held_out:
                with descent.arithmetic():
                    metrics.add("validation", validation.look(self.base, done, descent.factors), done)
            if done % look_every == 0 or last or validation.over:
                line = self._line(descent, validation, start, first)
                metrics.add("loss", line.loss, done)
                self.progress(line)
                self._note = ""
            if _due(done, self.options.samples_every, last):
                self._draw_samples(descent)
            if _due(done, self.options.checkpoint_every, last or validation.over):
                self._save(descent, validation)
        return validation.best or descent.factors()

    @property
    def _folder(self) -> Path | None:
        return self.workspace.folder if self.workspace else None

    def _say(self, sentence: str) -> None:
        self._note = f"{self._note} {sentence}".strip()

    def _line(self, descent: Descent, validation: Validation, start: float, first: int) -> TrainingProgress:
        done, steps = descent.done, self.plan.steps
        seconds_a_step = (time.monotonic() - start) / (done - first)
        return TrainingProgress(
            stage="training",
            step=done,
            steps=steps,
            loss=float(descent.losses[done - 1]),
            seconds=time.monotonic() - self.began,
            images_per_second=self.plan.batch / seconds_a_step,
            seconds_left=seconds_a_step * (steps - done),
            memory_bytes=most_memory(self.base.device),
            validation=validation.newest,
            note=self._note,
        )

    def _draw_samples(self, descent: Descent) -> None:
        """A sheet of what the adapter draws now from the first captions, always of the same noise."""
        if self._folder is None:
            return
        captions = [example.caption for example in (*self.held_out, *self.examples)][:SHOWN]
        generator = torch.Generator(self.base.device).manual_seed(self.plan.seed)
        with torch.no_grad(), descent.arithmetic():
            latents = self.base.draw_latents(self.base.embed(captions), SAMPLE_STEPS, generator)
            pictures = self.base.pictures(latents.float())
        try:
            save_sheet(self._folder / SAMPLES / f"step-{descent.done:06d}.png", pictures)
        except OSError as error:
            self._say(f"The samples of step {descent.done} cannot be written: {error.strerror}.")

    def _save(self, descent: Descent, validation: Validation) -> None:
        if self._folder is None:
            return
        seconds = time.monotonic() - self.began
        state = {"descent": descent.state(), "validation": validation.state(), "seconds": seconds}
        try:
            save_checkpoint(self._folder, self._key(), state)
        except OSError as error:
            self._say(
                f"The checkpoint of step {descent.done} cannot be written: {error.strerror}. Training goes on; free "
                f"some space for {self._folder}."
            )

    def _resume(self, descent: Descent, validation: Validation) -> None:
        state: State | None = load_checkpoint(self._folder, self._key()) if self._folder else None
        if state is None:
            return
        descent.restore(state["descent"])
        validation.restore(state["validation"])
        self.began -= state["seconds"]
        self._say(f"Going on from step {descent.done}.")

    def _key(self) -> str:
        """What a checkpoint is good for: this base, plan, arithmetic and data."""
        assert self.workspace
        own = self.options.model_dump(
            include={"optimizer", "schedule", "warmup", "early_stop", "validate_every", "gradient_accumulation"}
        )
        return sha256(
            canonical(
                {
                    "base": self.workspace.base,
                    "plan": self.plan.digest(),
                    "options": own,
                    "rank": rank_of(self.plan, self.options),
                    "fixed": self.fixed.digest() if self.fixed else "",
                    "format": format_of(self.base, self.options),
                    "examples": [_name(example) for example in self.examples],
                    "held out": [_name(example) for example in self.held_out],
                }
            )
        )


def most_memory(device: torch.device) -> int:
    """Bytes: the most that this process has used of the GPU, or of main memory where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _due(done: int, every: int, last: bool) -> bool:
    """Every so many steps and after the last; never where ``every`` is 0."""
    return every > 0 and (last or done % every == 0)


def _name(example: Example) -> str:
    """An example's hash."""
    picture = np.ascontiguousarray(example.picture)
    said = [list(picture.shape), example.caption, list(example.phrases), example.trigger, float(example.weight)]
    return sha256(canonical(said) + picture.tobytes())
