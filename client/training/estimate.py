"""What training will take, said before anything starts: pictures, steps, time, memory, disk."""

from collections.abc import Sequence
from dataclasses import dataclass

from bases.families import Base
from client.collection.example import Example
from client.training.batches import Batches
from client.training.descent import adapting, rank_of
from client.training.drift import adapted_pairs
from client.training.engine import most_memory
from client.training.options import TrainingOptions
from client.training.timing import Choice
from protocol.grant import RoundPlan

FP32, FP16 = 4, 2
ADAM = 2
"""Moments that the optimizer keeps of every weight."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of the largest use of memory, and of everything that will be on the disk."""

    images: int
    held_out: int
    steps: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    device: str
    threads: int
    precision: str


def estimate(
    base: Base,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    batches: Batches,
    plan: RoundPlan,
    options: TrainingOptions,
    choice: Choice,
) -> Estimate:
    """After real steps were timed (``choice``): their time for every step, and the memory that they took.

    Drawing for the statistics and the drift penalty comes on top of the time; it is some seconds to minutes.
    """
    steps, weights = plan.sized(len(examples)).steps, _weights(base, plan, options)
    checkpoint = 2 * weights * FP32 * (1 + ADAM)  # the new one is whole before the old one goes
    pictures = sum(example.picture.nbytes for example in (*examples, *held_out))
    return Estimate(
        images=len(examples),
        held_out=len(held_out),
        steps=steps,
        seconds=steps * choice.seconds_a_step,
        memory_bytes=most_memory(base.device),
        disk_bytes=checkpoint + weights * FP16 + pictures + batches.size_bytes,
        device=base.device.type,
        threads=choice.threads,
        precision=choice.precision,
    )


def _weights(base: Base, plan: RoundPlan, options: TrainingOptions) -> int:
    """Numbers in an adapter of the member's rank."""
    with adapting(base, plan, options.model_copy(update={"rank": rank_of(plan, options)})):
        return sum(matrix.numel() for pair in adapted_pairs(base, "coterie").values() for matrix in pair)
