"""What a member decides alone: how its own machine trains. What makes contributions comparable is the round's plan."""

from typing import Annotated, Literal

from pydantic import Field

from protocol.canonical import Document

Count = Annotated[int, Field(ge=0)]


class TrainingOptions(Document):
    """The member's own settings of training; the defaults need no thought."""

    rank: Annotated[int, Field(ge=1, le=128)] | None = None
    """LoRA rank; more than the plan's is cut to it. None is the plan's."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen weights and the arithmetic; the adapter itself stays fp32.

    Auto is bf16 or else fp16 on a GPU, and on a CPU what a node timed there, fp32 unless another is clearly faster.
    """
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to zero, or not at all."""
    warmup: Count = 0
    """Steps in which the learning rate rises to the plan's."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts that each batch of the plan is computed in: less memory, the same step."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back: less memory, about a third more time."""
    checkpoint_every: Count = 100
    """Steps between checkpoints, from which training goes on after a crash; 0 is never."""
    validate_every: Count = 0
    """Steps between losses on the held-out tokens, at fixed noise; 0 is never."""
    early_stop: Count = 0
    """Validations without a better loss after which training ends with the best adapter; 0 is never."""
    samples_every: Count = 0
    """Steps between sheets of pictures that the adapter draws; 0 is never."""
