"""Acts that matter, each an EIP-712 order over exactly what is done to a round, a contribution or a grant.

Like ``StartRound``, each names who does it, a nonce that counts once, and an end that is near. A session can do none
of them.
"""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import Field

from contracts_abi.model import Address
from protocol.canonical import Document
from protocol.errors import NotAllowed
from protocol.grant import Hash, Nonce, StartRound, eip712

MAX_ACT_SECONDS = 24 * 3600
"""The furthest end that an order may name: the owners of a Safe need time to sign it together."""

Reason = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
ShortId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

Particular = tuple[str, str, object]
"""A field as the wallet shows it: name, EIP-712 type, value."""


class Act(Document):
    """What every order says; each kind adds who does it and to what."""

    effect: ClassVar[str]
    """What follows, in the words that the wallet shows."""

    dao: str
    chain_id: int
    nonce: Nonce
    expires: int
    """Unix seconds."""

    @property
    @abstractmethod
    def actor(self) -> Address:
        """Who does it."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """What it is done to, by its id."""

    @abstractmethod
    def _particulars(self) -> tuple[Particular, ...]: ...

    def typed_data(self) -> dict[str, Any]:
        """The EIP-712 document that the actor's wallet shows and signs."""
        shown: tuple[Particular, ...] = (
            ("dao", "string", self.dao),
            ("effect", "string", self.effect),
            *self._particulars(),
            ("nonce", "string", self.nonce),
            ("expires", "uint256", self.expires),
        )
        kind, types = type(self).__name__, tuple((name, of) for name, of, _ in shown)
        return eip712(self.chain_id, kind, {kind: types}, {name: value for name, _, value in shown})


class AdminAct(Act):
    """An act of an admin."""

    admin: Address

    @property
    def actor(self) -> Address:
        return self.admin


class RoundAct(AdminAct):
    """What an admin does to a round."""

    round_id: ShortId

    @property
    def subject(self) -> str:
        return self.round_id

    def _particulars(self) -> tuple[Particular, ...]:
        return (("admin", "address", self.admin), ("round", "string", self.round_id))


class ContributionAct(AdminAct):
    """What an admin does to a contribution."""

    contribution_id: ShortId

    @property
    def subject(self) -> str:
        return self.contribution_id

    def _particulars(self) -> tuple[Particular, ...]:
        return (("admin", "address", self.admin), ("contribution", "string", self.contribution_id))


class CancelRound(RoundAct):
    """An admin's order: this round ends without a release."""

    effect = "This round ends without a release. What was contributed to it is not merged."

    reason: Reason

    def _particulars(self) -> tuple[Particular, ...]:
        return (*super()._particulars(), ("reason", "string", self.reason))


class PauseRound(RoundAct):
    """An admin's order: this round stands still until it is resumed."""

    effect = "This round stands still until it is resumed. Its deadline waits, and what members send is still kept."

    reason: Reason

    def _particulars(self) -> tuple[Particular, ...]:
        return (*super()._particulars(), ("reason", "string", self.reason))


class ResumeRound(RoundAct):
    """An admin's order: this paused round goes on, its deadline as much later as it was paused."""

    effect = "This round goes on. Its deadline moves by the time that it was paused."


class ExtendRound(RoundAct):
    """An admin's order: this round waits longer for its members."""

    effect = "This round waits for its members until a later deadline."

    deadline: Annotated[int, Field(gt=0, lt=1 << 53)]
    """The new one, Unix seconds."""

    def _particulars(self) -> tuple[Particular, ...]:
        return (*super()._particulars(), ("deadline", "uint256", self.deadline))


class PublishRound(RoundAct):
    """An admin's order: this round waits for nobody else and goes on with what is here."""

    effect = "This round waits for nobody else and goes on to its release with what is here now."


class RemoveContribution(ContributionAct):
    """An admin's order: this contribution is live no longer, and the collective is merged again without it."""

    effect = "This contribution ends, and the shared model is made again without it."

    reason: Reason

    def _particulars(self) -> tuple[Particular, ...]:
        return (*super()._particulars(), ("reason", "string", self.reason))


class QuarantineContribution(ContributionAct):
    """An admin's order: this contribution is not merged until it is accepted."""

    effect = "This contribution is set aside: it is kept, and not merged until an admin accepts it."

    reason: Reason

    def _particulars(self) -> tuple[Particular, ...]:
        return (*super()._particulars(), ("reason", "string", self.reason))


class AcceptContribution(ContributionAct):
    """An admin's order: this contribution, which was set aside, is merged like any other."""

    effect = "This contribution is set aside no longer: it is merged like any other."


class RevokeGrant(Act):
    """A member's order: nothing more is trained under this grant, and what was, is removed."""

    effect = "Nothing more is trained under this grant, and the shared model is made again without what was."

    member: Address
    grant_hash: Hash
    """The hash of the grant's document; its first 16 digits are the grant's id."""

    @property
    def actor(self) -> Address:
        return self.member

    @property
    def subject(self) -> str:
        return self.grant_hash[:16]

    def _particulars(self) -> tuple[Particular, ...]:
        return (("member", "address", self.member), ("grantHash", "bytes32", "0x" + self.grant_hash))


def require_current(order: Act | StartRound, dao: str, chain_id: int, now: int) -> None:
    """The order is for this DAO on this chain, and for now (Unix seconds).

    Raises:
        NotAllowed: with the first thing that is wrong.
    """
    for what, said, meant in (("DAO", order.dao, dao), ("chain", order.chain_id, chain_id)):
        if said != meant:
            raise NotAllowed(
                f"The order is for another {what}: {said}, not {meant}.", "Ask /api/v1/dao and sign again."
            )
    if now >= order.expires:
        raise NotAllowed("The order has expired.", "Sign a new one.")
    if order.expires > now + MAX_ACT_SECONDS:
        raise NotAllowed("The order ends more than a day from now.", "Sign one that ends sooner.")
