"""One NFT as it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3), sRGB."""

BETWEEN = ", "
"""What stands between two phrases of a caption."""


@dataclass(frozen=True)
class Example:
    """A picture at the size it is trained at, and what is said of it.

    Invariant: ``example.worded(example.phrases) == example.caption``.
    """

    picture: Picture
    caption: str
    """All that is said: the collection's template, filled in."""
    phrases: tuple[str, ...] = ()
    """One for each trait, in the caption's order: what trait dropout may leave out."""
    trigger: str = ""
    """The member's own word in the caption, never left out; may be empty."""
    weight: float = 1.0
    """How much it counts in this member's own training; one is the mean over the dataset."""

    def worded(self, kept: Sequence[str]) -> str:
        """The caption with ``kept`` (some of ``phrases``, in any order) in place of all phrases."""
        whole = BETWEEN.join(self.phrases)
        if not whole or whole not in self.caption:
            return self.caption
        # The last occurrence: a name or a trigger before the phrases may happen to say the same.
        before, _, after = self.caption.rpartition(whole)
        said = BETWEEN.join(kept)
        return f"{before}{said}{after}" if said else f"{before.rstrip(' ,;:')}{after}".strip(" ,;:")
