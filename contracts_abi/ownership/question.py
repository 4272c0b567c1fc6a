"""What every kind of collection has in common: claims, and the questions that settle them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts_abi.asking import Call
from contracts_abi.model import Address, Token


@dataclass(frozen=True)
class Claim:
    """That ``wallet`` holds ``token``."""

    token: Token
    wallet: Address


@dataclass(frozen=True)
class Question:
    """One call, the claims that its answer settles, and how the answer is read."""

    call: Call
    claims: tuple[Claim, ...]
    read: Callable[[object], Sequence[str | None]]
    """Whom the answer names for each of ``claims``: a checksummed address, None for nobody."""


class Resolver(Protocol):
    """A kind of collection: how its contract is asked about claims on its tokens."""

    def __call__(self, claims: Sequence[Claim]) -> Iterable[Question]: ...
