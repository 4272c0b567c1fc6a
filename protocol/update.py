"""What a member trained between fixed factors, as the bytes of a ``dp`` contribution: a salt, then fp32 numbers.

The contribution's header names these bytes by their hash, and the header is published. Without the salt that hash would
tell whoever guesses an update whether the guess is right, which no noise in the release takes back. The salt stays
between member and coordinator.
"""

import os

import numpy as np

from protocol.errors import ContributionRefused
from protocol.modes import FloatArray

SALT_BYTES = 32
_NUMBERS = np.dtype("<f4")


def dump_update(numbers: FloatArray, salt: bytes | None = None) -> bytes:
    """``numbers`` (size,) behind a fresh salt from the operating system, or behind this one."""
    return (os.urandom(SALT_BYTES) if salt is None else salt) + numbers.astype(_NUMBERS).tobytes()


def update_bytes(size: int) -> int:
    """How long an update of so many numbers is."""
    return SALT_BYTES + size * _NUMBERS.itemsize


def numbers_in(length: int) -> int:
    """How many numbers an update of so many bytes has."""
    return max(0, length - SALT_BYTES) // _NUMBERS.itemsize


def load_update(data: bytes, size: int) -> FloatArray:
    """The numbers (size,), as they are: also those that are not finite, which is for the clip to deal with.

    Raises:
        ContributionRefused: another length than the round's.
    """
    if len(data) != update_bytes(size):
        raise ContributionRefused(f"The update has {len(data)} bytes; the round's has {update_bytes(size)}.")
    return np.frombuffer(data, _NUMBERS, offset=SALT_BYTES).astype(np.float64)
