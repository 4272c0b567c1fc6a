"""What ``dp`` releases have told of each member so far, and whether one more may."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.aggregation.private import NoisyRelease, require_budget, spent
from coordinator.database import ReleaseRow
from protocol.grant import RoundPlan
from protocol.manifest import Manifest
from protocol.modes import Mode, PrivacySpent


def history(session: Session) -> list[NoisyRelease]:
    """Every release that ever added noise, of all epochs: what was told stays told."""
    rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.number))
    manifests = (Manifest.model_validate_json(row.manifest) for row in rows)
    return [
        following(manifest.plan, [one.member for one in manifest.contributions])
        for manifest in manifests
        if manifest.plan.mode is Mode.DP
    ]


def following(plan: RoundPlan, members: Collection[str]) -> NoisyRelease:
    """A release by this plan with these members' data."""
    return NoisyRelease(plan.noise, frozenset(members))


def require(session: Session, plan: RoundPlan, members: Collection[str], limit: float) -> None:
    """Raises NotAllowed when one more release by this plan would tell more of a member than ``limit``."""
    require_budget(history(session), following(plan, members), plan.delta, limit)


def after(session: Session, plan: RoundPlan, members: Collection[str]) -> PrivacySpent:
    """What all releases tell together once this one is out."""
    return spent([*history(session), following(plan, members)], plan.delta)
