"""The coordinator's side of secure aggregation: what it gathers at each stage, and the one sum that it can open.

Pure: each stage is a value, ``take`` gives the stage with one more answer, ``close`` the next stage or the sentence
that the round ends with. Masked words are not kept here; they come in once, one member at a time, when the sum is
opened. Whoever does not answer at a stage has dropped out there:

    before its shares are in     nobody masks with it
    before its update is in      its neighbours' masks are taken off by its mask key, opened from shares
    after that                   it is in the sum; its own mask is taken off by its seed, opened from others' shares
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from protocol.canonical import sha256
from protocol.errors import Conflict, ContributionRefused
from protocol.masking import (
    LEAST_MEMBERS,
    Confirmation,
    Deliveries,
    KeyAdvert,
    MaskedInput,
    MaskingTerms,
    Roster,
    SealedShares,
    Signed,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    Words,
    check_survivors,
    joined,
    pair_mask,
    private_key,
    public_half,
    self_mask,
    two_thirds,
)
from protocol.modes import IntArray

_AGAIN = "Open the round again, or with a longer deadline."


@dataclass(frozen=True)
class Keys:
    """Stage one: members make keys."""

    terms: MaskingTerms
    taken: Mapping[str, Signed[KeyAdvert]] = field(default_factory=dict)

    def take(self, said: Signed[KeyAdvert]) -> Self:
        """Raises ContributionRefused: not a node of the round, other terms, a wrong signature, a second advert."""
        advert = said.document
        if advert.node_key not in self.terms.weights or advert.terms_hash != self.terms.digest():
            raise ContributionRefused("These keys are not for this round.", "Ask for the round's terms again.")
        return replace(self, taken=_with(self.taken, said))

    def close(self) -> "Shares":
        """Raises Conflict: too few members for a secret sum."""
        _require(len(self.taken), LEAST_MEMBERS, "made keys")
        adverts = tuple(self.taken[node] for node in sorted(self.taken))
        threshold, quorum = two_thirds(self.terms.holders(len(adverts))), two_thirds(len(adverts))
        return Shares(Roster(terms=self.terms, adverts=adverts, threshold=threshold, quorum=quorum))


@dataclass(frozen=True)
class Shares:
    """Stage two: members share their secrets."""

    roster: Roster
    taken: Mapping[str, Signed[SealedShares]] = field(default_factory=dict)

    def take(self, said: Signed[SealedShares]) -> Self:
        """Raises ContributionRefused: another roster's, not one for each holder, a wrong signature, a second answer."""
        _require_member(self.roster, said.document.node_key, said.document.roster_hash)
        if set(said.document.shares) != set(self.roster.holders(said.document.node_key)):
            raise ContributionRefused("These shares are not for this member's holders.", "Share anew.")
        return replace(self, taken=_with(self.taken, said))

    def close(self) -> "Inputs":
        """Raises Conflict: fewer than the quorum shared."""
        _require(len(self.taken), max(LEAST_MEMBERS, self.roster.quorum), "shared their secrets")
        return Inputs(self.roster, {node: said.document for node, said in self.taken.items()})


@dataclass(frozen=True)
class Inputs:
    """Stage three: members send masked updates."""

    roster: Roster
    shares: Mapping[str, SealedShares]
    taken: Mapping[str, Signed[MaskedInput]] = field(default_factory=dict)

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(sorted(self.shares))

    def deliveries(self, node: str) -> Deliveries:
        """What one member is handed."""
        senders = (peer for peer in self.roster.holders(node) if peer in self.shares)
        sealed = {peer: self.shares[peer].shares[node].sealed for peer in senders}
        return Deliveries(roster_hash=self.roster.hash, present=self.present, sealed=sealed)

    def take(self, said: Signed[MaskedInput], words: bytes) -> Self:
        """Raises ContributionRefused: not present, other words than signed, not the round's size, a second update."""
        _require_member(self.roster, said.document.node_key, said.document.roster_hash, self.shares)
        expected = self.roster.terms.size * self.roster.terms.word.itemsize
        if len(words) != expected or sha256(words) != said.document.words_sha256:
            raise ContributionRefused(
                f"The masked update is not the {expected} bytes that were signed.", "Send it again."
            )
        return replace(self, taken=_with(self.taken, said))

    def close(self) -> "Confirmations":
        """Raises Conflict: fewer than the quorum sent an update. NotAllowed: what is left falls apart."""
        _require(len(self.taken), max(LEAST_MEMBERS, self.roster.quorum), "sent a masked update")
        survivors = Survivors(roster_hash=self.roster.hash, present=self.present, survivors=tuple(sorted(self.taken)))
        check_survivors(self.roster, survivors)
        return Confirmations(self, survivors)


@dataclass(frozen=True)
class Confirmations:
    """Stage four: members confirm whose updates are in the sum."""

    inputs: Inputs
    survivors: Survivors
    taken: Mapping[str, Signed[Confirmation]] = field(default_factory=dict)

    def take(self, said: Signed[Confirmation]) -> Self:
        """Raises ContributionRefused: not a survivor, another set, a wrong signature, a second confirmation."""
        confirmation = said.document
        if confirmation.node_key not in self.inputs.taken or confirmation.survivors_hash != self.survivors.digest():
            raise ContributionRefused("This confirms other survivors than the round's.", "Ask for them again.")
        return replace(self, taken=_with(self.taken, said))

    def close(self) -> "Answers":
        """Raises Conflict: fewer than the quorum confirmed."""
        _require(len(self.taken), self.inputs.roster.quorum, "confirmed the survivors")
        confirmations = tuple(self.taken[node] for node in sorted(self.taken))
        return Answers(self.inputs, UnmaskRequest(survivors=self.survivors, confirmations=confirmations))


@dataclass(frozen=True)
class Answers:
    """Stage five: members give out shares until every mask of the sum can be taken off."""

    inputs: Inputs
    request: UnmaskRequest
    taken: Mapping[str, Signed[UnmaskAnswer]] = field(default_factory=dict)

    @property
    def dropped(self) -> frozenset[str]:
        """Who shared its secrets and sent no update: masks of the others' name it."""
        return frozenset(self.request.survivors.present) - frozenset(self.request.survivors.survivors)

    def take(self, said: Signed[UnmaskAnswer]) -> Self:
        """Raises ContributionRefused: not a survivor, another set, shares that nobody dealt, a second answer."""
        answer, survivors = said.document, self.request.survivors
        if answer.node_key not in survivors.survivors or answer.survivors_hash != survivors.digest():
            raise ContributionRefused("This answers for other survivors than the round's.", "Ask for them again.")
        for peer, opened in (*answer.seeds.items(), *answer.keys.items()):
            if sha256(bytes.fromhex(opened)) != self._dealt(peer, answer.node_key):
                raise ContributionRefused(f"A share of node {peer[:14]}… is not the one that it dealt.", "Answer anew.")
        return replace(self, taken=_with(self.taken, said))

    @property
    def is_enough(self) -> bool:
        """Every secret that the sum needs can be opened; no need to wait for more."""
        return not any(len(self._shares(node)) < self.inputs.roster.threshold for node in self._needed())

    def total(self, words: Iterable[tuple[str, bytes]]) -> IntArray:
        """Σ w x over the survivors, exactly, (size,) int64, from the masked words by node key, in any order.

        Raises:
            Conflict: a secret has too few shares, or was shared wrongly.
            ContributionRefused: the words are not those that were signed.
        """
        roster, inputs = self.inputs.roster, self.inputs.taken
        sum_: Words = np.zeros(roster.terms.size, roster.terms.word)
        left = set(inputs)
        for node, part in words:
            if node not in left or sha256(part) != inputs[node].document.words_sha256:
                raise ContributionRefused(f"The masked update of node {node[:14]}… is not the one that it signed.")
            left.discard(node)
            sum_ += np.frombuffer(part, roster.terms.word)
        if left:
            raise ContributionRefused(f"The masked update of node {min(left)[:14]}… is missing.")
        for node in self._needed():
            for cover in self._covers(node):
                sum_ -= cover
        return sum_.view(f"<i{sum_.itemsize}").astype(np.int64)

    def _needed(self) -> tuple[str, ...]:
        """Whose secret must be opened: a survivor's seed, the key of a dropped one whom a survivor masked with."""
        survivors, near = self.request.survivors.survivors, self.inputs.roster.neighbours
        return (*survivors, *(node for node in sorted(self.dropped) if set(near[node]) & set(survivors)))

    def _covers(self, node: str) -> Iterable[Words]:
        """The masks in the sum that one opened secret takes off."""
        roster, secret = self.inputs.roster, self._opened(node)
        if node not in self.dropped:
            yield self_mask(roster, secret, node)
            return
        survivors = set(self.request.survivors.survivors)
        for peer in roster.neighbours[node]:
            if peer in survivors:  # the peer added the negative of what the dropped one would have
                yield np.negative(pair_mask(roster, private_key(secret), peer, node))

    def _opened(self, node: str) -> bytes:
        roster, shares = self.inputs.roster, self._shares(node)
        _require(len(shares), roster.threshold, f"hold a share of node {node[:14]}… answered", "holders who")
        secret, advert = joined(roster, node, shares), roster.keys[node]
        is_right = (
            public_half(private_key(secret)) == advert.mask_key
            if node in self.dropped
            else sha256(secret) == advert.seed_sha256
        )
        if not is_right:
            raise Conflict(
                f"Node {node[:14]}… shared a secret that is not its own.", "Open the round again without it."
            )
        return secret

    def _shares(self, node: str) -> dict[str, bytes]:
        """The shares of the one secret of ``node`` that the sum needs, by holder."""
        answers = ((holder, said.document) for holder, said in self.taken.items())
        given = ((holder, one.keys if node in self.dropped else one.seeds) for holder, one in answers)
        return {holder: bytes.fromhex(shares[node]) for holder, shares in given if node in shares}

    def _dealt(self, peer: str, holder: str) -> str | None:
        """The hash of the share that ``holder`` was dealt, of the one secret of ``peer`` that may be opened."""
        dealt = self.inputs.shares.get(peer)
        share = dealt.shares.get(holder) if dealt else None
        if share is None:
            return None
        return share.key_share_sha256 if peer in self.dropped else share.seed_share_sha256


Stage = Keys | Shares | Inputs | Confirmations | Answers
"""One of the five."""


def _with(taken: Mapping, said: Signed) -> dict:  # type: ignore[type-arg]
    said.check_integrity()
    node = said.document.node_key
    if node in taken and taken[node].document != said.document:
        raise ContributionRefused("This node has answered otherwise before.", "The first answer counts.")
    return {**taken, node: said}


def _require_member(roster: Roster, node: str, roster_hash: str, among: Iterable[str] | None = None) -> None:
    if roster_hash != roster.hash or node not in (roster.keys if among is None else among):
        raise ContributionRefused("This answer is not of this round.", "Ask for the round's roster again.")


def _require(count: int, needed: int, did: str, who: str = "members") -> None:
    if count < needed:
        raise Conflict(f"Only {count} {who} {did}, and it takes {needed}.", _AGAIN)
