"""The member's dataset: what is trained on, what is held out, what is left out and why, and the lock file of it all."""

import errno
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from client.collection.captions import Caption, caption
from client.collection.choice import Choice, Weight
from client.collection.example import Example, Picture
from client.collection.metadata import Metadata, origin, read_image, read_metadata
from client.collection.opener import PictureOpener
from client.media.resolver import Media
from contracts_abi.model import Token
from protocol.canonical import Document, sha256
from protocol.contribution import TokenUse, Veto
from protocol.errors import BadInput, CoterieError, NotAllowed

LOCK = "dataset.lock.json"
PICTURES = "pictures"
HELD_OUT_SHARE = 0.2
FEWEST_TO_HOLD_OUT = 4
EVERYTHING = Choice()
IN_FILE: tuple[Veto, ...] = ("c2pa", "iptc")
"""What the opener looks for in every picture."""

Progress = Callable[[int, int], None]
"""Gets (tokens done, tokens in all)."""


@dataclass(frozen=True)
class Source:
    """A token that may be trained on: where its metadata is, and which rule of the policy admits it."""

    token: Token
    uri: str
    rule: str


class LockedToken(Document):
    """One token as it is used, why it may be, and where all of it came from."""

    use: TokenUse
    rule: str
    weight: float = 1.0
    """Of mean one over the dataset; counts in this member's own training only."""
    height: int = 0
    width: int = 0
    metadata_uri: str = ""
    """The URI with its CID; of a ``data:`` URI what is before the data."""
    metadata_sha256: str = ""
    image_uri: str = ""


class Skipped(Document):
    """One token that is left out, and why."""

    token: Token
    reason: str


class DatasetLock(Document):
    """``dataset.lock.json``: with the same lock, the same pictures were trained on.

    Version 1 knew neither weights nor shapes nor origins; it is read for what it has.
    """

    version: Literal[1, 2] = 2
    size: int
    """Pixels a side that the base draws."""
    tokens: tuple[LockedToken, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Opened:
    """What a token showed of itself; a part is None where it was not looked at or could not be opened."""

    metadata: Metadata | None = None
    caption: Caption | None = None
    picture: Picture | None = None
    media_sha256: str = ""
    no_veto_in: tuple[Veto, ...] = ()
    """Of the original bytes: where a veto was looked for."""


@dataclass(frozen=True)
class Candidate:
    """One token, and what becomes of it."""

    source: Source
    opened: Opened
    taken: bool
    because: str
    """Why it is taken or left out."""
    weight: Weight = Weight(0.0, "")  # noqa: RUF009 - it is frozen


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
        """Write lock and pictures; ``load_held_out`` reads them again. They stay on this machine.

        Raises:
            BadInput: the disk is full.
        """
        trained, kept = iter(self.examples), iter(self.held_out)
        try:
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
            for use in self.uses:
                example = next(kept if use.held_out else trained)
                Image.fromarray(example.picture).save(folder / PICTURES / file_name(use.token))
            (folder / LOCK).write_bytes(self.lock.canonical())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            needed = sum(example.picture.nbytes for example in (*self.examples, *self.held_out))
            raise BadInput(
                "The disk is full, so the dataset could not be written.",
                f"Free at least {1 + needed // 10**6} MB where {folder} is, or move the home folder (COTERIE_HOME).",
            ) from error


def build_dataset(
    sources: Sequence[Source],
    media: Media,
    size: int,
    progress: Progress | None = None,
    choice: Choice = EVERYTHING,
    held_s: Mapping[Token, float] | None = None,
) -> Dataset:
    """Open every chosen token's picture for a base that draws ``size`` pixels a side; a bad one is skipped.

    The same sources, files and choice give the same dataset byte for byte, in whatever order the sources come.
    ``held_s`` are the seconds that a token has been held, where that is known.

    Raises:
        NotAllowed: not one token is usable.
    """
    return dataset_of(survey(sources, media, size, progress, choice, held_s), size)


def survey(
    sources: Sequence[Source],
    media: Media,
    size: int,
    progress: Progress | None = None,
    choice: Choice = EVERYTHING,
    held_s: Mapping[Token, float] | None = None,
    *,
    open_all: bool = False,
) -> tuple[Candidate, ...]:
    """Look at every token, and say of each what becomes of it; ``open_all``: open also what the member left out."""
    candidates = []
    with PictureOpener() as opener:
        for done, source in enumerate(sorted(sources, key=lambda source: source.token), start=1):
            candidates.append(_look(source, media, size, choice, opener, open_all))
            if progress:
                progress(done, len(sources))
    traits = {one.source.token: one.opened.metadata.traits for one in candidates if one.opened.metadata}
    weights = choice.weights([one.source.token for one in candidates if one.taken], traits, held_s)
    return tuple(
        Candidate(one.source, one.opened, one.taken, one.because, weights.get(one.source.token, one.weight))
        for one in candidates
    )


def dataset_of(candidates: Sequence[Candidate], size: int) -> Dataset:
    """The dataset of what a survey found.

    Raises:
        NotAllowed: not one token is usable.
    """
    skipped = tuple(Skipped(token=one.source.token, reason=one.because) for one in candidates if not one.taken)
    taken = [one for one in candidates if one.taken]
    if not taken:
        raise NotAllowed(
            f"None of the {len(candidates)} tokens can be trained on. {_first_reason(skipped)}".strip(),
            "Check choice.toml, the collection's metadata and your gateways, or join with other tokens.",
        )
    held_out = held_out_of(one.source.token for one in taken)
    return Dataset(
        examples=tuple(_example(one) for one in taken if one.source.token not in held_out),
        held_out=tuple(_example(one) for one in taken if one.source.token in held_out),
        lock=DatasetLock(
            size=size, tokens=tuple(_locked(one, one.source.token in held_out) for one in taken), skipped=skipped
        ),
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
    return tuple(Example(_load_picture(folder / PICTURES / file_name(use.token)), use.caption) for use in uses)


def file_name(token: Token) -> str:
    """A picture's name in ``pictures/``."""
    return f"{token.contract}-{token.token_id}.png"


def _look(source: Source, media: Media, size: int, choice: Choice, opener: PictureOpener, open_all: bool) -> Candidate:
    metadata: Metadata | None = None
    decision = choice.judge(source.token, None)
    try:
        # Also of what is left out by name: rarity is among all tokens that are known.
        metadata = read_metadata(source.uri, media)
        decision = choice.judge(source.token, metadata.traits)
        if not decision.taken and not open_all:
            return Candidate(source, Opened(metadata), *decision)
        words = caption(metadata, choice.style_of(source.token.contract))
        found = read_image(metadata.image, media)
        picture = opener.open(found.data, size, metadata.background)
        sought = (*IN_FILE, "tdmrep") if found.tdmrep else IN_FILE
        return Candidate(source, Opened(metadata, words, picture, sha256(found.data), sought), *decision)
    except CoterieError as error:
        because = str(error) if decision.taken else decision.because
        return Candidate(source, Opened(metadata), taken=False, because=because)


def _example(one: Candidate) -> Example:
    assert one.opened.picture is not None
    assert one.opened.caption is not None
    words = one.opened.caption
    return Example(one.opened.picture, words.text, words.phrases, words.trigger, one.weight.value)


def _locked(one: Candidate, held_out: bool) -> LockedToken:
    assert one.opened.metadata is not None
    example = _example(one)
    return LockedToken(
        use=TokenUse(
            token=one.source.token,
            media_sha256=one.opened.media_sha256,
            caption=example.caption,
            held_out=held_out,
            no_veto_in=one.opened.no_veto_in,
        ),
        rule=one.source.rule,
        weight=example.weight,
        height=example.picture.shape[0],
        width=example.picture.shape[1],
        metadata_uri=origin(one.source.uri),
        metadata_sha256=one.opened.metadata.sha256,
        image_uri=origin(one.opened.metadata.image),
    )


def _load_picture(path: Path) -> Picture:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB")).copy()


def _first_reason(skipped: Sequence[Skipped]) -> str:
    return f"The first, {skipped[0].token}: {skipped[0].reason}" if skipped else ""
