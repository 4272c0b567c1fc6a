"""What the pages show of a release, read from its manifest once: small, frozen, and good for ever, by its CID.

A manifest carries every grant, header and verdict, up to megabytes; here its tokens are counted, grouped and cut.
Nothing is checked: the coordinator wrote these manifests itself, and ``coterie verify`` checks them for anyone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pydantic import BaseModel, ConfigDict

from contracts_abi.model import Snapshot
from coordinator.releases.samples import prompts_of
from protocol.grant import RoundPlan
from protocol.manifest import BaseReference, Merge

IDS_SHOWN = 12
BEGINNING_WORDS = 6


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Use(_Part):
    token: str
    caption: str
    held_out: bool


class _Header(_Part):
    tokens: tuple[_Use, ...]


class _Verdict(_Part):
    token: str
    collection: str
    licence: str | None
    reason: str
    evidence: str = ""
    duties: tuple[str, ...] = ()


class _Merged(_Part):
    contribution_id: str
    member: str
    header: _Header
    weight: int
    share: float
    norm: float | None
    note: str = ""
    influence: float | None = None
    worth: float | None = None
    licences: tuple[str, ...]
    verdicts: tuple[_Verdict, ...] = ()


class _Removal(_Part):
    contribution_id: str
    member: str
    reason: str


class _Order(_Part):
    admin: str


class _Signed(_Part):
    order: _Order


class _Manifest(_Part):
    epoch: int
    base: BaseReference
    policy_hash: str
    snapshot: Snapshot
    plan: RoundPlan
    contributions: tuple[_Merged, ...]
    exclusions: tuple[_Verdict, ...]
    removals: tuple[_Removal, ...]
    merge: Merge
    licence: str
    duties: tuple[str, ...]
    files: dict[str, str]
    order: _Signed | None = None


@dataclass(frozen=True)
class Tokens:
    """Tokens of one collection (by its name, or by its contract where that is all that is known): the first ids,
    and how many more there are."""

    collection: str
    ids: tuple[int, ...]
    more: int

    @property
    def count(self) -> int:
        return len(self.ids) + self.more


@dataclass(frozen=True)
class Piece:
    """A contribution as a part of a release."""

    contribution_id: str
    member: str
    tokens: tuple[Tokens, ...]
    trained: int
    held_out: int
    weight: int
    share: float
    norm: float | None
    note: str
    influence: float | None
    worth: float | None
    licences: tuple[str, ...]

    @property
    def count(self) -> int:
        return self.trained + self.held_out


@dataclass(frozen=True)
class Gone:
    """A contribution that the release before had and this one has not."""

    contribution_id: str
    member: str
    reason: str


@dataclass(frozen=True)
class Ground:
    """Why tokens were admitted, or left out: one reason, and how many tokens it is about."""

    collection: str
    licence: str | None
    reason: str
    evidence: str
    duties: tuple[str, ...]
    tokens: Tokens


@dataclass(frozen=True)
class Glance:
    """A release at a glance."""

    epoch: int
    base: BaseReference
    policy_hash: str
    snapshot: Snapshot
    plan: RoundPlan
    pieces: tuple[Piece, ...]
    gone: tuple[Gone, ...]
    admitted: tuple[Ground, ...]
    left_out: tuple[Ground, ...]
    merge: Merge
    licence: str
    duties: tuple[str, ...]
    files: frozenset[str]
    admin: str | None
    """Who ordered the round; None where it followed from a sale or an act."""
    prompts: tuple[str, ...]
    """Of its sample sheet, from left to right."""
    beginnings: tuple[str, ...]
    """Words that all descriptions of a collection begin with: saying them calls up what was learned."""

    @property
    def losses(self) -> tuple[float, float] | None:
        """Held-out error of the base and of this release, where both were scored."""
        by_gain = {one.gain: one.loss for one in self.merge.scores if one.candidate == self.merge.candidate}
        if 0.0 not in by_gain or self.merge.gain not in by_gain:
            return None
        return by_gain[0.0], by_gain[self.merge.gain]

    @property
    def shares(self) -> Mapping[str, float]:
        """Member → share of everything that went in, in the order of the manifest."""
        found: dict[str, float] = {}
        for one in self.pieces:
            found[one.member] = found.get(one.member, 0.0) + one.share
        return found

    @property
    def tokens(self) -> int:
        """How many tokens it was trained on, those kept for scoring among them."""
        return sum(one.count for one in self.pieces)


def glance_at(manifest: str) -> Glance:
    """``manifest`` is the canonical JSON of a release's manifest."""
    read = _Manifest.model_validate_json(manifest)
    captions = [[use.caption for use in one.header.tokens if not use.held_out] for one in read.contributions]
    return Glance(
        epoch=read.epoch,
        base=read.base,
        policy_hash=read.policy_hash,
        snapshot=read.snapshot,
        plan=read.plan,
        pieces=tuple(_piece(one) for one in read.contributions),
        gone=tuple(Gone(one.contribution_id, one.member, one.reason) for one in read.removals),
        admitted=grounds_of(verdict for one in read.contributions for verdict in one.verdicts),
        left_out=grounds_of(read.exclusions),
        merge=read.merge,
        licence=read.licence,
        duties=read.duties,
        files=frozenset(read.files),
        admin=read.order.order.admin if read.order else None,
        prompts=prompts_of(captions),
        beginnings=_beginnings(use for one in read.contributions for use in one.header.tokens),
    )


def grounds_of(verdicts: Iterable[_Verdict]) -> tuple[Ground, ...]:
    """Verdicts with the same reason, together; the reason that is about the most tokens first."""
    found: dict[tuple[str, str], list[_Verdict]] = {}
    for one in verdicts:
        found.setdefault((one.collection, one.reason), []).append(one)
    grounds = [
        Ground(
            collection=collection,
            licence=some[0].licence,
            reason=reason,
            evidence=some[0].evidence,
            duties=some[0].duties,
            tokens=cut(collection, sorted(id_of(one.token) for one in some)),
        )
        for (collection, reason), some in found.items()
    ]
    return tuple(sorted(grounds, key=lambda one: -one.tokens.count))


def read_verdicts(documents: Iterable[str]) -> list[_Verdict]:
    """Verdicts from their JSON, without more of them than ``grounds_of`` needs."""
    return [_Verdict.model_validate_json(one) for one in documents]


def uses_of(header: str) -> tuple[tuple[Tokens, ...], int, int]:
    """Of a contribution's header, canonical JSON: its tokens by contract, how many were trained on, how many kept."""
    uses = _Header.model_validate_json(header).tokens
    held_out = sum(use.held_out for use in uses)
    return by_contract(use.token for use in uses), len(uses) - held_out, held_out


def by_contract(names: Iterable[str]) -> tuple[Tokens, ...]:
    """Tokens by their CAIP-19 names → by contract, the ids in order."""
    found: dict[str, list[int]] = {}
    for name in names:
        found.setdefault(contract_of(name), []).append(id_of(name))
    return tuple(cut(contract, sorted(ids)) for contract, ids in sorted(found.items()))


def cut(collection: str, ids: Sequence[int]) -> Tokens:
    return Tokens(collection, tuple(ids[:IDS_SHOWN]), max(0, len(ids) - IDS_SHOWN))


def contract_of(name: str) -> str:
    """The contract in a token's CAIP-19 name."""
    return name.rsplit("/", 1)[0].rsplit(":", 1)[1]


def id_of(name: str) -> int:
    """The id in a token's CAIP-19 name."""
    return int(name.rsplit("/", 1)[1])


def _piece(one: _Merged) -> Piece:
    held_out = sum(use.held_out for use in one.header.tokens)
    return Piece(
        contribution_id=one.contribution_id,
        member=one.member,
        tokens=by_contract(use.token for use in one.header.tokens),
        trained=len(one.header.tokens) - held_out,
        held_out=held_out,
        weight=one.weight,
        share=one.share,
        norm=one.norm,
        note=one.note,
        influence=one.influence,
        worth=one.worth,
        licences=one.licences,
    )


def _beginnings(uses: Iterable[_Use]) -> tuple[str, ...]:
    captions: dict[str, list[list[str]]] = {}
    for use in uses:
        captions.setdefault(contract_of(use.token), []).append(use.caption.split())
    shared = (_common(words)[:BEGINNING_WORDS] for words in captions.values() if len(words) > 1)
    return tuple(dict.fromkeys(" ".join(words).rstrip(",.;: ") for words in shared if words))


def _common(several: Sequence[Sequence[str]]) -> list[str]:
    """The words that all of them begin with."""
    return [words[0] for words in takewhile(lambda words: len(set(words)) == 1, zip(*several, strict=False))]
