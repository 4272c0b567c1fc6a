"""What ``dp`` releases have told of each member so far, and whether one more may."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.aggregation.private import NoisyRelease, require_budget, spent
from coordinator.database import ReleaseRow
from coordinator.identity.members import persons
from protocol.grant import RoundPlan
from protocol.manifest import Manifest
from protocol.modes import Mode, PrivacySpent


def history(session: Session) -> list[NoisyRelease]:
    """Every release that ever added noise, of all epochs: what was told stays told, and of a person as a whole."""
    rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.number))
    manifests = (Manifest.model_validate_json(row.manifest) for row in rows)
    return [
        following(session, manifest.plan, [one.member for one in manifest.contributions])
        for manifest in manifests
        if manifest.plan.mode is Mode.DP
    ]


def following(session: Session, plan: RoundPlan, wallets: Collection[str]) -> NoisyRelease:
    """A release by this plan with the data of the members whose wallets these are; linked wallets are one member."""
    known = persons(session)
    return NoisyRelease(plan.noise, frozenset(known.get(wallet, wallet) for wallet in wallets))


def require(session: Session, plan: RoundPlan, members: Collection[str], limit: float) -> None:
    """Raises NotAllowed when one more release by this plan, in ``dp``, would tell more of a member than ``limit``."""
    if plan.mode is not Mode.DP:
        return
    require_budget(history(session), following(session, plan, members), plan.delta, limit)


def after(session: Session, plan: RoundPlan, members: Collection[str]) -> PrivacySpent:
    """What all releases tell together once this one is out."""
    return spent([*history(session), following(session, plan, members)], plan.delta)
