"""Training that is killed goes on from its checkpoint, to the bit; a full disk costs no training."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from protocol.adapter import dump_adapter
from protocol.base import base_hash
from protocol.grant import RoundPlan

torch = pytest.importorskip("torch")

from bases.loading import Base, load_base  # noqa: E402
from client.collection.example import Example  # noqa: E402
from client.training import checkpoint, engine  # noqa: E402
from client.training.options import TrainingOptions  # noqa: E402

pytestmark = pytest.mark.slow

PLAN = RoundPlan(steps=9, batch=3, drift=0.0, noise_offset=0.05, min_snr=5.0, seed=4)
OPTIONS = TrainingOptions(checkpoint_every=3, warmup=2)
ROOT = Path(__file__).parents[2]


def examples() -> list[Example]:
    rng = np.random.default_rng(5)
    sizes = ((32, 32), (32, 32), (32, 48), (48, 32))
    return [Example(rng.integers(0, 256, (*size, 3), dtype=np.uint8), f"picture {size}") for size in sizes]


def train(folder: Path, base: Base, plan: RoundPlan = PLAN, **options: int) -> tuple[bytes, list[int], list[str]]:
    """(the adapter's file, the steps that were made, what was said)."""
    lines: list[engine.TrainingProgress] = []
    workspace = engine.Workspace(folder / "round", folder / "cache", base_hash(EMBEDDED_BASE))
    trained = engine.train(
        base, examples(), plan, lines.append, options=OPTIONS.model_copy(update=options), workspace=workspace
    )
    return dump_adapter(trained.adapter), [line.step for line in lines], [line.note for line in lines if line.note]


@pytest.fixture(scope="module")
def base() -> Base:
    torch.set_num_threads(1)
    return load_base(EMBEDDED_BASE)


def test_training_killed_at_any_step_goes_on_to_the_same_adapter(base: Base, tmp_path: Path) -> None:
    whole, steps, _ = train(tmp_path / "whole", base)
    assert steps == list(range(1, 10))
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        assert process.stdout
        try:
            reached = next(line for line in process.stdout if line.strip() == "step 5")
        finally:
            process.send_signal(signal.SIGKILL)
    assert reached and process.wait() == -signal.SIGKILL
    went_on, steps, said = train(tmp_path / "killed", base)
    # The dead process may have come one checkpoint further before the signal reached it.
    assert steps[0] in (4, 7)
    assert said == [f"Going on from step {steps[0] - 1}."]
    assert went_on == whole


def test_a_checkpoint_of_another_plan_or_dataset_is_not_used(base: Base, tmp_path: Path) -> None:
    train(tmp_path, base, PLAN.model_copy(update={"steps": 3}))
    assert (tmp_path / "round" / checkpoint.FILE).exists()
    _, steps, said = train(tmp_path, base, PLAN.model_copy(update={"steps": 2}))
    assert (steps, said) == ([1, 2], [])


def test_a_damaged_checkpoint_is_not_used(base: Base, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"steps": 3})
    first, *_ = train(tmp_path, base, plan)
    file = tmp_path / "round" / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-100])
    again, steps, _ = train(tmp_path, base, plan)
    assert (again, steps) == (first, [1, 2, 3])


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    _, steps, said = train(tmp_path, base, PLAN.model_copy(update={"steps": 4}))
    assert steps == [1, 2, 3, 4]
    assert said[0].startswith("The checkpoint of step 3 cannot be written: No space left on device. Training goes on;")
    assert not (tmp_path / "round" / checkpoint.FILE).exists()


def test_what_was_encoded_once_is_read_again(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLAN.model_copy(update={"steps": 1, "prior_pictures": 2})
    first, *_ = train(tmp_path, base, plan, checkpoint_every=0)

    def not_again(*_: object) -> None:
        raise AssertionError("a picture was encoded or drawn again")

    monkeypatch.setattr(type(base), "encode_pictures", not_again)
    monkeypatch.setattr(type(base), "draw_latents", not_again)
    again, *_ = train(tmp_path, base, plan, checkpoint_every=0)
    assert again == first


if __name__ == "__main__":
    torch.set_num_threads(1)
    real = engine.Descent.step

    def told(self: engine.Descent) -> None:
        real(self)
        print("step", self.done, flush=True)

    engine.Descent.step = told  # type: ignore[method-assign]
    train(Path(sys.argv[1]), load_base(EMBEDDED_BASE))
