"""One NFT as it is trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3), sRGB."""


@dataclass(frozen=True)
class Example:
    """A picture at the size it is trained at, and its caption."""

    picture: Picture
    caption: str
