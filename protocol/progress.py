"""How far a member's machine is in a round, as its node key tells the coordinator. Counters only.

Neither losses nor names nor paths: what is learned, and of what, leaves with the contribution alone.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.canonical import Document

MAX_STEPS = 10**9
MAX_SECONDS = 10**8


class Stage(StrEnum):
    """What a machine does for a round, in the order in which it does."""

    PICTURES = "pictures"
    TRAINING = "training"
    STATISTICS = "statistics"
    SCORING = "scoring"


class Progress(Document):
    """One message: step ``step`` of ``steps``; signed with the node key over its canonical form."""

    round_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    node_key: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
    stage: Stage
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    steps: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    seconds_left: Annotated[int, Field(ge=0, le=MAX_SECONDS)] | None
    """To the end of this stage, as the machine estimates; None while it cannot say."""
    at: Annotated[int, Field(ge=0, le=2**53 - 1)]
    """Unix milliseconds of the machine's clock. A message counts only when it is later than the last that did."""

    @property
    def is_done(self) -> bool:
        """Whether the stage is over."""
        return self.step >= self.steps
