"""The DAO's policy: the document, the licences it knows, and the verdict it gives of one token.

What lives here: pure rules over facts that a caller read from the chain. Default deny; every verdict carries its
reason. No I/O, no clock.
"""

from protocol.policy.document import (
    AdminRole,
    AdminSafe,
    AdminWallets,
    CollectionRule,
    CustomLicence,
    Policy,
    RobustRule,
    TokenRule,
    Weights,
)
from protocol.policy.duties import Duty, DutyKind
from protocol.policy.licences import LICENCES, Licence, OnTransfer, licence_named, licence_of
from protocol.policy.membership import Holding, Membership, Standing, standing_of
from protocol.policy.publishing import ReleaseTerms, licences_of, release_terms
from protocol.policy.reading import parse_policy
from protocol.policy.rules import Facts, Held, Level, Rule, Verdict, explained, judge, within_cap

__all__ = [
    "LICENCES",
    "AdminRole",
    "AdminSafe",
    "AdminWallets",
    "CollectionRule",
    "CustomLicence",
    "Duty",
    "DutyKind",
    "Facts",
    "Held",
    "Holding",
    "Level",
    "Licence",
    "Membership",
    "OnTransfer",
    "Policy",
    "ReleaseTerms",
    "RobustRule",
    "Rule",
    "Standing",
    "TokenRule",
    "Verdict",
    "Weights",
    "explained",
    "judge",
    "licence_named",
    "licence_of",
    "licences_of",
    "parse_policy",
    "release_terms",
    "standing_of",
    "within_cap",
]
