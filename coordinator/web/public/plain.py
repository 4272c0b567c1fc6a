"""The policy in plain words, for people who have never heard of any of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.modes import GIVES_UP, Mode
from protocol.policy import CollectionRule, Policy, RobustRule, Weights
from protocol.policy.document import AdminRole, AdminSafe, AdminWallets
from protocol.policy.licences import OnTransfer
from protocol.policy.membership import AllOf, AnyOf, OnList, Requirement

SOLD: Mapping[OnTransfer, str] = {
    OnTransfer.KEEP: "What was learned from a token stays when it is sold.",
    OnTransfer.EXCLUDE: "When a token is sold, what was learned from it ends: the collective is merged again "
    "without it.",
    OnTransfer.RETRAIN: "When a token is sold, what was learned from it ends, and its member is asked to train again "
    "on what is left.",
}
MODES: Mapping[Mode, str] = {
    Mode.OPEN: "open: the coordinator sees each member's update and can take a single one out again",
    Mode.SECAGG: "secret sum: the coordinator can read the sum of all updates, and no single one",
    Mode.DP: "with noise: so much chance is mixed in that a release tells little of any one member",
}
ROBUST: Mapping[RobustRule, str] = {
    RobustRule.NONE: "all count as their weight says",
    RobustRule.MULTI_KRUM: "those that lie far from all others are left out (Multi-Krum)",
    RobustRule.GEOMETRIC_MEDIAN: "those that lie far from all others count for less (geometric median)",
}


@dataclass(frozen=True)
class Terms:
    """What the policy says of one collection."""

    name: str
    contract: str
    licence: str
    evidence: str
    allow: bool
    sold: str
    duties: tuple[str, ...]


def terms_of(policy: Policy) -> tuple[Terms, ...]:
    """The policy's word on each collection."""
    return tuple(_terms(policy, rule) for rule in policy.collections)


def rules_of(policy: Policy) -> tuple[tuple[str, str], ...]:
    """(what it is about, the rule), in the order in which people ask."""
    rules = [
        ("What is not named", "is not used. A token needs a rule that allows it."),
        ("Licences that are silent on training", _silent(policy)),
        ("Who may take part", _membership(policy)),
        ("How long a token must have been held", _holding(policy)),
        ("How much a member counts", _weights(policy)),
        ("Contributions that are far from all others", ROBUST[policy.robust]),
        ("What releases are published under", policy.release_licence or "the strictest licence of what went in"),
        ("What becomes of contributions", _contributions(policy)),
        ("How a round may be merged", "; ".join(MODES[mode] for mode in policy.modes)),
        ("Who starts rounds and takes things out", _admin(policy)),
    ]
    if policy.refused_duties:
        rules.insert(2, ("Duties that the DAO does not take on", ", ".join(policy.refused_duties)))
    if Mode.DP in policy.modes:
        rules.append(("What noise has to hide", f"all releases together may tell at most ε = {policy.epsilon_limit:g}"))
    return tuple((about, rule) for about, rule in rules if rule)


def given_up(mode: Mode) -> tuple[str, ...]:
    """What a mode gives up for what it hides."""
    return GIVES_UP[mode]


def _terms(policy: Policy, rule: CollectionRule) -> Terms:
    known = policy.licence(rule.licence) if rule.licence else None
    on_transfer = rule.on_transfer or (known.on_transfer if known else None)
    duties = (*(known.duties if known else ()), *rule.duties)
    return Terms(
        name=rule.name,
        contract=rule.contract,
        licence=rule.licence or "the licence that its contract declares on the chain",
        evidence=rule.evidence if rule.allow else rule.reason,
        allow=rule.allow,
        sold=SOLD[on_transfer] if on_transfer else "What a sale means follows from that licence.",
        duties=tuple(dict.fromkeys(map(str, duties))),
    )


def _silent(policy: Policy) -> str:
    return (
        "admitted, when the holder warrants the right to train by signature"
        if policy.accept_holder_warrant
        else "not admitted"
    )


def _membership(policy: Policy) -> str:
    least = "one admitted token" if policy.minimum_tokens == 1 else f"{policy.minimum_tokens} admitted tokens"
    said = f"whoever holds {least} or more in one wallet"
    if policy.membership is not None:
        said += f", and {_required(policy.membership)}"
    if policy.maximum_tokens is not None:
        said += f"; of one member {policy.maximum_tokens} tokens at most are used, the lowest ids first"
    return said


def _required(one: Requirement) -> str:
    match one:
        case AllOf():
            return " and ".join(_nested(each) for each in one.all)
        case AnyOf():
            return "either " + " or ".join(_nested(each) for each in one.any)
        case OnList():
            return f"is on {one.label}"
    return f"holds {one.at_least} of {one.label}" if one.kind != "view" else f"is vouched for by {one.label}"


def _nested(one: Requirement) -> str:
    return f"({_required(one)})" if isinstance(one, AllOf | AnyOf) else _required(one)


def _holding(policy: Policy) -> str:
    days, blocks = policy.minimum_holding_days, policy.minimum_holding_blocks
    asked = [f"{number} {unit}" for number, unit in ((days, "days"), (blocks, "blocks")) if number]
    return " and ".join(asked)


def _weights(policy: Policy) -> str:
    said = {
        Weights.EQUAL: "each member counts the same",
        Weights.PER_TOKEN: "each admitted token counts the same",
        Weights.SQUARE_ROOT: "each member counts by the square root of its admitted tokens",
        Weights.CAPPED: f"each admitted token counts, up to {policy.weight_cap} a member",
    }[policy.weights]
    if policy.maximum_share_percent is not None:
        said += f"; nobody has more than {policy.maximum_share_percent}% of a merge"
    return said + ". Nothing that a member's machine reports changes its weight"


def _contributions(policy: Policy) -> str:
    if policy.publish_contributions:
        return "they are published in the release, so that anyone can make the merge again"
    return "the coordinator keeps them and publishes only what they were merged into"


def _admin(policy: Policy) -> str:
    match policy.admin:
        case AdminRole():
            return f"wallets with the admin role of contract {policy.admin.contract}, asked of the chain each time"
        case AdminSafe():
            return f"the DAO's own contract wallet {policy.admin.safe}, asked of the chain each time"
        case AdminWallets():
            return "these wallets: " + ", ".join(policy.admin.wallets)
