"""What a release says of itself: what went in, what did not and why, and how it was merged."""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.signatures import AskWallet, key_holder, signature_bytes
from protocol.canonical import Document, Growing
from protocol.contribution import CandidateName, ContributionHeader, TokenUse
from protocol.errors import ContentMismatch, ContributionRefused
from protocol.grant import Grant, Hash, RoundPlan, StartRound, require_signer, signing_hash
from protocol.modes import Mode, PrivacySpent
from protocol.node_key import verify
from protocol.policy import Duty, Verdict
from protocol.release_signature import SIGNATURE

Chain = Callable[[Snapshot], AskWallet]
"""Contract wallets asked at a block, as ``contracts_abi.signatures.at_block`` does with a node."""


def contribution_file(contribution_id: str, what: str) -> str:
    """Where a release that publishes its contributions has one's file: ``what`` is "adapter" or "statistics"."""
    return f"contributions/{contribution_id}/{what}.safetensors"


class MergedContribution(Document):
    """One live contribution: whose, on what, with which weight, and both signatures that stand behind it."""

    contribution_id: str
    member: Address
    grant: Grant
    grant_signature: str
    signed_at: Snapshot | None = None
    """The block at which the coordinator checked that signature: a contract wallet's word may be another one later."""
    header: ContributionHeader
    signature: str
    weight: Annotated[int, Field(ge=0)]
    """What its delta and statistics were multiplied by in the sums: by grant and policy, less what the rule took."""
    share: float
    rank: int
    norm: float | None
    """‖Δ‖, Frobenius over all layers; None in a private mode, as all else that would tell of a single update."""
    note: str = ""
    """Why it counts for less than its weight, if it does."""
    statistics_error: Annotated[float, Field(ge=0)] | None = None
    """How far its statistics are from those that the coordinator drew again, the worst input's relative distance."""
    influence: Annotated[float, Field(ge=0)] | None = None
    """How far the collective moves, in the data's metric and relative to itself, when this one is left out."""
    worth: float | None = None
    """How much the median held-out loss of the regression mean rises at gain 1 without it; None if not scored."""
    licences: tuple[str, ...]
    snapshot: Snapshot | None = None
    """Of the round it was made in: the block at which its tokens were its member's. None in manifests before this."""
    admitted: Annotated[int, Field(ge=0)] | None = None
    """How many of the grant's tokens that round admitted: what its weight by policy goes by."""
    verdicts: tuple[Verdict, ...] = ()
    """On the tokens it was trained on, in the header's order; why each was admitted."""
    received_at: int | None = None
    """Unix seconds: of two copies of one delta the earlier one counts."""

    @property
    def tokens(self) -> tuple[TokenUse, ...]:
        return self.header.tokens

    @property
    def needs_chain(self) -> bool:
        """Whether the grant's signature is no key's of its member, so that only the chain can say if it holds."""
        if self.signed_at is None or self.signed_at.chain_id != self.grant.chain_id:
            return False
        return key_holder(signing_hash(self.grant), signature_bytes(self.grant_signature)) != self.member

    def check(self, chain: Chain | None = None) -> None:
        """The wallet signed this grant, its node key signed this header, and the header keeps to the grant.

        Without ``chain`` nothing is said about a signature that ``needs_chain``.

        Raises:
            NotAllowed: the grant's signature is not the member's.
            ContributionRefused: the header is not the grant's, or its signature is wrong.
            Unreachable: ``chain`` got no answer.
        """
        if not (self.needs_chain and self.signed_at):
            require_signer(self.grant, self.grant_signature, self.member)
        elif chain:
            require_signer(self.grant, self.grant_signature, self.member, chain(self.signed_at))
        verify(self.header.node_key, self.header.canonical(), self.signature)
        named = (self.member, self.header.node_key, self.header.grant_id)
        granted = (self.grant.member, self.grant.node_key, self.grant.grant_id)
        if named != granted or not {use.token for use in self.tokens} <= set(self.grant.tokens):
            raise ContributionRefused(f"Contribution {self.contribution_id} goes beyond its grant.")
        if self.contribution_id != self.header.digest()[:16]:
            raise ContributionRefused(f"Contribution {self.contribution_id} is called by another's name.")


class Removal(Document):
    """A contribution that was in the parent release and is not in this one."""

    contribution_id: str
    member: Address
    token: Token | None = None
    """Whose sale ended it; None where its member or an admin ended it."""
    block: Snapshot
    reason: str


class GainScore(Document):
    candidate: CandidateName = "regression mean"
    gain: float
    loss: float
    """The members' median of held-out losses."""


class Distillation(Document):
    """How the distilled candidate came about, beside the plan's steps and rate."""

    teachers: int
    """Contributions whose adapters it learned from."""
    steps: int | None = None
    lessons: int
    first_loss: float
    last_loss: float
    """Mean squared distance to the teachers' answers, over the first and the last tenth of the steps."""


class BaseStatistics(Document):
    """G₀, the base's own statistics, that joined the denominators at the plan's μ."""

    source: Literal["shipped", "drawn"]
    """Measured on the base's own data, in a file that came with it; or drawn from the plan's ``prior_captions``."""
    sha256: Hash


class Merge(Document):
    """How the adapter came from the contributions."""

    mode: Mode = Mode.OPEN
    gives_up: tuple[str, ...] = ()
    """What the mode gives up for what it hides."""
    rule: Literal["regression mean", "secret sum", "noised mean"] = "regression mean"
    regularisation: float
    base_statistics: Annotated[BaseStatistics | None, Field(exclude_if=lambda own: own is None)] = None
    """None where μ is 0, and in manifests from before this was said."""
    rank: int
    tail: float
    """Share of the merged delta's energy, in the data's metric, that truncation dropped; the worst layer's."""
    candidate: CandidateName = "regression mean"
    """Which of the candidates is published."""
    distillation: Distillation | None = None
    base_change: Annotated[float, Field(ge=0)] | None = None
    """How far the base's answers on its own pictures move, relative to them, at gain 1; None if not measured."""
    commitment: Hash | None
    """SHA-256 over the integer sums before anything is solved: equal for equal sets, in any order. None where noise
    was added: the sum without it is nobody's to check."""
    privacy: PrivacySpent | None = None
    """``dp``: what all releases together tell of the member they tell most of."""
    gain: float
    scores: tuple[GainScore, ...]
    scored_by: int


class SignedOrder(Document):
    """The admin's order that opened the round, and the block at which it was checked."""

    order: StartRound
    signature: str
    signed_at: Snapshot


class BaseReference(Document):
    name: str
    hash: Hash


class Manifest(Growing):
    """``manifest.json`` of a release."""

    LATER: ClassVar[frozenset[str]] = frozenset({"signing_key"})

    version: Literal[1] = 1
    dao: str
    round_id: str
    kind: Literal["training", "removal"]
    epoch: Annotated[int, Field(ge=1)]
    parent: str | None
    """CID of the release before."""
    base: BaseReference
    policy_hash: Hash
    snapshot: Snapshot
    plan: RoundPlan
    contributions: tuple[MergedContribution, ...]
    exclusions: tuple[Verdict, ...]
    removals: tuple[Removal, ...]
    merge: Merge
    licence: str
    duties: tuple[Duty, ...]
    files: dict[str, Hash]
    """Every other file of the release, by SHA-256; not the signature, which is over the manifest too."""
    order: SignedOrder | None = None
    """None where nobody ordered it: a removal follows from the chain, or from an act that the log holds."""
    signing_key: str | None = None
    """The coordinator's public key (PEM) that ``model.sig`` is by; None where the release carries no signature."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every file of the release but the manifest itself."""
        return (*self.files, *((SIGNATURE,) if self.signing_key else ()))

    @property
    def unproven(self) -> tuple[MergedContribution, ...]:
        """Those whose member is a contract wallet: what ``check`` leaves open without a chain."""
        return tuple(one for one in self.contributions if one.needs_chain)

    def check(self, hashes: Mapping[str, str], chain: Chain | None = None) -> None:
        """The files beside the manifest (``hashes``: SHA-256 by name) are those it names, and all signatures hold.

        ``chain`` asks contract wallets; without it, the signatures of those that are ``unproven`` are left open.

        Raises:
            ContentMismatch: a file is missing, of another content, or not named.
            NotAllowed, ContributionRefused, Unreachable: as ``MergedContribution.check``.
        """
        # Whatever the signature's own hash is: it is over the manifest, which therefore cannot name it.
        named = {name: self.files.get(name, hashes.get(name, "")) for name in self.names}
        differing = sorted(name for name, _ in set(hashes.items()) ^ set(named.items()))
        if differing:
            raise ContentMismatch(f"{differing[0]} is not what the manifest says.", "Do not use this release.")
        for contribution in self.contributions:
            contribution.check(chain)
