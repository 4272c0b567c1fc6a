"""A member's machine at work on one dataset: base loaded, threads and number format chosen, adapter trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bases.families import Base
from bases.loading import load_base
from client.collection.example import Example
from client.training.cache import Cache
from client.training.engine import Trained, TrainingProgress, Workspace, prepare, train
from client.training.estimate import Estimate, estimate
from client.training.fixed import fixed_factors
from client.training.options import TrainingOptions
from client.training.timing import Choice, cores, fastest, use_threads
from protocol.grant import RoundPlan

CACHE = "cache"


class Machine:
    """The base in a folder, and this machine's way to train it.

    ``home`` keeps what is worth keeping between rounds: encoded pictures and the timing. ``threads`` that the member
    set are taken as they are, and nothing is timed.
    """

    def __init__(self, home: Path, base: Path, base_hash: str, options: TrainingOptions, threads: int | None) -> None:
        self._home, self._hash, self._options, self._threads = home, base_hash, options, threads
        use_threads(threads or cores())
        self.base: Base = load_base(base)

    def train(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        plan: RoundPlan,
        folder: Path,
        progress: Callable[[TrainingProgress], None],
    ) -> Trained:
        """Train, with checkpoint and samples in ``folder``."""
        options = self._options
        if examples and self._threads is None:
            choice = self._timed(examples, plan)
            use_threads(choice.threads)
            options = options.model_copy(update={"precision": choice.precision})
        workspace = Workspace(folder, self._home / CACHE, self._hash)
        return train(
            self.base,
            examples,
            plan,
            progress,
            options=options,
            held_out=held_out,
            workspace=workspace,
            fixed=fixed_factors(self.base, self._hash, plan),
        )

    def estimate(self, examples: Sequence[Example], held_out: Sequence[Example], plan: RoundPlan) -> Estimate:
        """What that would take, from real steps."""
        batches = prepare(self.base, examples, plan, self._cache)
        choice = self._timed(examples, plan)
        return estimate(self.base, examples, held_out, batches, plan, self._options, choice)

    @property
    def _cache(self) -> Cache:
        return Cache(self._home / CACHE, self._hash)

    def _timed(self, examples: Sequence[Example], plan: RoundPlan) -> Choice:
        batches = prepare(self.base, examples, plan, self._cache)
        return fastest(self.base, batches, plan, self._options, self._threads, self._home, self._hash)
