"""A member's side of secure aggregation: five steps, and what it refuses.

Pure: a request and the member's state go in, the next state and a signed answer come out. The state is a document, so
that it can be written down before the answer leaves; it holds this round's secrets and belongs in a file that only its
owner reads. A step may be repeated with the same request, when an answer got lost; with another it is refused, because
a second answer is what would tell a member's update.

A coordinator that holds both secrets of one peer can read that peer's update. So a member gives out the one or the
other, never both: it confirms one set of survivors, and answers for that set alone.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from protocol.canonical import Document, sha256
from protocol.errors import NotAllowed
from protocol.grant import Hash
from protocol.masking import (
    NONCE_BYTES,
    SECRET_BYTES,
    Confirmation,
    Deliveries,
    KeyAdvert,
    MaskedInput,
    MaskingTerms,
    NodeKey,
    Roster,
    SealedShare,
    SealedShares,
    Share,
    Signed,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    check_confirmations,
    check_survivors,
    masked,
    pair_mask,
    private_key,
    public_half,
    seal,
    self_mask,
    split,
    unseal,
)
from protocol.modes import FloatArray

Sign = Callable[[bytes], str]
"""The node key over some bytes: hex, as ``protocol.node_key.sign``."""
Entropy = Callable[[int], bytes]

_LEAVE = "Leave this round and tell the DAO."


class Member(Document):
    """What a member remembers of one round, all of it made for that round alone."""

    terms: MaskingTerms
    node_key: NodeKey
    seed: Share
    """Of its self mask."""
    key_secret: Share
    """Its private mask key is derived from this."""
    seal_private: Hash
    roster: Roster | None = None
    shares: SealedShares | None = None
    deliveries: Deliveries | None = None
    input: MaskedInput | None = None
    confirmed: Hash | None = None
    """The one set of survivors that it answers for."""

    @property
    def mask_private(self) -> bytes:
        return private_key(bytes.fromhex(self.key_secret))

    def advert(self) -> KeyAdvert:
        """The public side of its secrets."""
        return KeyAdvert(
            terms_hash=self.terms.digest(),
            node_key=self.node_key,
            mask_key=public_half(self.mask_private),
            seal_key=public_half(bytes.fromhex(self.seal_private)),
            seed_sha256=sha256(bytes.fromhex(self.seed)),
        )


Said = TypeVar("Said", KeyAdvert, SealedShares, MaskedInput, Confirmation, UnmaskAnswer)


@dataclass(frozen=True)
class Step(Generic[Said]):
    """What a member is afterwards, what it says, and the masked words beside a ``MaskedInput``."""

    member: Member
    answer: Signed[Said]
    words: bytes = b""


def advertise(terms: MaskingTerms, node_key: str, sign: Sign, entropy: Entropy = os.urandom) -> Step[KeyAdvert]:
    """Make this round's keys.

    Raises:
        NotAllowed: the round does not know this node.
    """
    if node_key not in terms.weights:
        raise NotAllowed("This node is not among those that may take part in the round.", "Ask the DAO why.")
    member = Member(
        terms=terms,
        node_key=node_key,
        seed=entropy(SECRET_BYTES).hex(),
        key_secret=entropy(SECRET_BYTES).hex(),
        seal_private=entropy(32).hex(),
    )
    advert = member.advert()
    return Step(member, Signed[KeyAdvert](document=advert, signature=sign(advert.canonical())))


def share(member: Member, roster: Roster, sign: Sign, entropy: Entropy = os.urandom) -> Step[SealedShares]:
    """Check everybody's keys, and hand each holder its shares of both secrets.

    Raises:
        NotAllowed: the roster is not to be trusted, or is a second one.
    """
    if member.roster is not None and member.roster != roster:
        raise NotAllowed("The coordinator shows a second roster for the same round.", _LEAVE)
    if roster.terms != member.terms or roster.keys.get(member.node_key) != member.advert():
        raise NotAllowed("The roster is not of the terms and keys that this node takes part with.", _LEAVE)
    roster.check()
    sealed = member.shares or _sealed(member, roster, entropy)
    after = member.model_copy(update={"roster": roster, "shares": sealed})
    return Step(after, Signed[SealedShares](document=sealed, signature=sign(sealed.canonical())))


def mask(member: Member, deliveries: Deliveries, update: FloatArray, sign: Sign) -> Step[MaskedInput]:
    """Clip, put on the grid, weigh and mask an update (size,).

    Raises:
        NotAllowed: too few neighbours are left, shares are missing, or this would be a second update under one mask.
    """
    roster = _roster(member)
    if member.deliveries is not None and member.deliveries != deliveries:
        raise NotAllowed("The coordinator asks for a second masked update with others.", _LEAVE)
    if update.shape != (member.terms.size,):
        raise NotAllowed(f"The update has shape {update.shape}, not ({member.terms.size},).", "Train it again.")
    _check_deliveries(member, roster, deliveries)
    mine, terms = member.node_key, member.terms
    others = sorted(set(roster.neighbours[mine]) & set(deliveries.present))
    private = member.mask_private
    covers = (pair_mask(roster, private, other, mine) for other in others)
    own = self_mask(roster, bytes.fromhex(member.seed), mine)
    words = masked(terms.grid.whole(update), terms.weights[mine], (own, *covers), terms.word).tobytes()
    said = MaskedInput(roster_hash=roster.hash, node_key=mine, words_sha256=sha256(words))
    if member.input not in (None, said):
        raise NotAllowed("A second update under the same masks would tell both.", "Send the first one again.")
    after = member.model_copy(update={"deliveries": deliveries, "input": said})
    return Step(after, Signed[MaskedInput](document=said, signature=sign(said.canonical())), words)


def confirm(member: Member, shown: Survivors, sign: Sign) -> Step[Confirmation]:
    """Settle on one set of survivors.

    Raises:
        NotAllowed: the set is too small, not the round's, without this member, or a second one.
    """
    roster, present = _roster(member), member.deliveries.present if member.deliveries else ()
    if member.input is None or shown.present != present or member.node_key not in shown.survivors:
        raise NotAllowed("The coordinator shows survivors of a sum that this node has no part in.", _LEAVE)
    if member.confirmed not in (None, shown.digest()):
        raise NotAllowed("This node has confirmed other survivors before, and answers for one set only.", _LEAVE)
    check_survivors(roster, shown)
    said = Confirmation(node_key=member.node_key, survivors_hash=shown.digest())
    after = member.model_copy(update={"confirmed": said.survivors_hash})
    return Step(after, Signed[Confirmation](document=said, signature=sign(said.canonical())))


def unmask(member: Member, request: UnmaskRequest, sign: Sign) -> Step[UnmaskAnswer]:
    """Give out one share of each peer: of its seed if it survived, of its mask key if not.

    Raises:
        NotAllowed: these are not the survivors that this node confirmed, or no quorum did.
    """
    roster = _roster(member)
    if member.deliveries is None or request.survivors.digest() != member.confirmed:
        raise NotAllowed("This node is asked about survivors that it did not confirm.", _LEAVE)
    check_confirmations(roster, request)
    survivors, seeds, keys = set(request.survivors.survivors), {}, {}
    for peer, sealed in member.deliveries.sealed.items():
        shares = unseal(roster, bytes.fromhex(member.seal_private), peer, member.node_key, sealed)
        if peer in survivors:
            seeds[peer] = shares[:SECRET_BYTES].hex()
        else:
            keys[peer] = shares[SECRET_BYTES:].hex()
    said = UnmaskAnswer(node_key=member.node_key, survivors_hash=request.survivors.digest(), seeds=seeds, keys=keys)
    return Step(member, Signed[UnmaskAnswer](document=said, signature=sign(said.canonical())))


def _sealed(member: Member, roster: Roster, entropy: Entropy) -> SealedShares:
    mine, private = member.node_key, bytes.fromhex(member.seal_private)
    seeds = split(roster, mine, bytes.fromhex(member.seed))
    keys = split(roster, mine, bytes.fromhex(member.key_secret))
    shares = {
        holder: SealedShare(
            sealed=seal(roster, private, mine, holder, seeds[holder] + keys[holder], entropy(NONCE_BYTES)),
            seed_share_sha256=sha256(seeds[holder]),
            key_share_sha256=sha256(keys[holder]),
        )
        for holder in roster.holders(mine)
    }
    return SealedShares(roster_hash=roster.hash, node_key=mine, shares=shares)


def _check_deliveries(member: Member, roster: Roster, deliveries: Deliveries) -> None:
    """Every holder who is still there has handed over its shares, intact; enough of them are left to be covered."""
    mine, present = member.node_key, set(deliveries.present)
    if deliveries.roster_hash != roster.hash or list(deliveries.present) != sorted(present & set(roster.keys)):
        raise NotAllowed("Those who are said to be present are not members of this round.", _LEAVE)
    expected = set(roster.holders(mine)) & present
    if mine not in present or set(deliveries.sealed) != expected:
        raise NotAllowed("The coordinator does not hand over the shares of everyone who is present.", _LEAVE)
    if len(expected) < roster.threshold:
        raise NotAllowed(
            f"Only {len(expected)} holders are left where {roster.threshold} are needed.", "Wait for the next round."
        )
    for peer, sealed in deliveries.sealed.items():
        unseal(roster, bytes.fromhex(member.seal_private), peer, mine, sealed)


def _roster(member: Member) -> Roster:
    if member.roster is None:
        raise NotAllowed("This node has not been shown the round's keys yet.", _LEAVE)
    return member.roster
