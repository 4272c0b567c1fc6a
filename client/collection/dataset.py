"""The member's dataset: what is trained on, what is held out, and the lock file that says so by hash."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from client.collection.captions import caption
from client.collection.example import Example, Picture
from client.collection.metadata import FetchFile, read_image, read_metadata
from client.collection.picture import open_picture
from contracts_abi.model import Token
from protocol.canonical import Document, sha256
from protocol.contribution import TokenUse
from protocol.errors import CoterieError, NotAllowed

LOCK = "dataset.lock.json"
PICTURES = "pictures"
HELD_OUT_SHARE = 0.2
FEWEST_TO_HOLD_OUT = 4


@dataclass(frozen=True)
class Source:
    """A token that may be trained on: where its metadata is, and which rule of the policy admits it."""

    token: Token
    uri: str
    rule: str


class LockedToken(Document):
    """One token as it is used, and why it may be."""

    use: TokenUse
    rule: str


class Skipped(Document):
    """One token that is left out, and why."""

    token: Token
    reason: str


class DatasetLock(Document):
    """``dataset.lock.json``: with the same lock, the same pictures were trained on."""

    version: int = 1
    size: int
    """Pixels a side."""
    tokens: tuple[LockedToken, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Dataset:
    """Examples for training and for scoring, and their lock (same tokens, same order within each)."""

    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    lock: DatasetLock

    @property
    def uses(self) -> tuple[TokenUse, ...]:
        """What the contribution's header says of each token."""
        return tuple(locked.use for locked in self.lock.tokens)

    def save(self, folder: Path) -> None:
        """Write lock and pictures; ``load_held_out`` reads them again. They stay on this machine."""
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        trained, kept = iter(self.examples), iter(self.held_out)
        for use in self.uses:
            example = next(kept if use.held_out else trained)
            Image.fromarray(example.picture).save(folder / PICTURES / _file_name(use.token))
        (folder / LOCK).write_bytes(self.lock.canonical())


def build_dataset(
    sources: Sequence[Source], fetch_file: FetchFile, size: int, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Open every token's picture at ``size`` pixels a side; a bad token is skipped with its reason.

    ``progress`` gets (tokens done, tokens in all).

    Raises:
        NotAllowed: not one token is usable.
    """
    opened: list[tuple[Source, str, str, Picture]] = []
    skipped: list[Skipped] = []
    for done, source in enumerate(sources, start=1):
        try:
            opened.append((source, *_open(source, fetch_file, size)))
        except CoterieError as error:
            skipped.append(Skipped(token=source.token, reason=error.message))
        if progress:
            progress(done, len(sources))
    if not opened:
        raise NotAllowed(
            f"None of the {len(sources)} tokens can be trained on. {_first_reason(skipped)}".strip(),
            "Check the collection's metadata and your gateways, or join with other tokens.",
        )
    held_out = held_out_of(source.token for source, *_ in opened)
    locked = tuple(_locked(source, media, text, source.token in held_out) for source, media, text, _ in opened)
    examples = [(source.token, Example(picture, text)) for source, _, text, picture in opened]
    return Dataset(
        examples=tuple(example for token, example in examples if token not in held_out),
        held_out=tuple(example for token, example in examples if token in held_out),
        lock=DatasetLock(size=size, tokens=locked, skipped=tuple(skipped)),
    )


def held_out_of(tokens: Iterable[Token]) -> frozenset[Token]:
    """A fifth of the tokens, the least by hash of their name; none of fewer than four."""
    by_hash = sorted(tokens, key=lambda token: hashlib.sha256(str(token).encode()).digest())
    if len(by_hash) < FEWEST_TO_HOLD_OUT:
        return frozenset()
    return frozenset(by_hash[: max(1, round(HELD_OUT_SHARE * len(by_hash)))])


def load_held_out(folder: Path) -> tuple[Example, ...]:
    """The held-out examples that ``Dataset.save`` left in ``folder``."""
    lock = DatasetLock.model_validate_json((folder / LOCK).read_bytes())
    uses = [locked.use for locked in lock.tokens if locked.use.held_out]
    return tuple(Example(_load_picture(folder / PICTURES / _file_name(use.token)), use.caption) for use in uses)


def _open(source: Source, fetch_file: FetchFile, size: int) -> tuple[str, str, Picture]:
    """(SHA-256 of the image's original bytes, caption, picture)."""
    metadata = read_metadata(source.uri, fetch_file)
    data = read_image(metadata.image, fetch_file)
    return sha256(data), caption(metadata), open_picture(data, size, metadata.background)


def _locked(source: Source, media: str, text: str, held_out: bool) -> LockedToken:
    use = TokenUse(token=source.token, media_sha256=media, caption=text, held_out=held_out)
    return LockedToken(use=use, rule=source.rule)


def _load_picture(path: Path) -> Picture:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB")).copy()


def _file_name(token: Token) -> str:
    return f"{token.contract}-{token.token_id}.png"


def _first_reason(skipped: Sequence[Skipped]) -> str:
    return f"The first, {skipped[0].token}: {skipped[0].reason}" if skipped else ""
