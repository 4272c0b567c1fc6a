"""Examples of tokens and people, with what a policy is expected to say of them: its rules can be written test-first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from contracts_abi.model import Address, LicenceSignal, Token
from protocol.canonical import Document
from protocol.policy.document import Policy
from protocol.policy.duties import Duty
from protocol.policy.licences import OnTransfer
from protocol.policy.membership import Question, Standing, questions_of, standing_of
from protocol.policy.reading import parse
from protocol.policy.rules import DAY_SECONDS, Facts, Held, Rule, Verdict, judge

BLOCK_SECONDS = 12
"""An Ethereum block, where an example gives days only."""


class Expected(Document):
    """What is compared; what is left out may come out in any way."""

    allow: bool
    rule: Rule | None = None
    licence: str | None = None
    duties: tuple[Duty, ...] | None = None
    on_transfer: OnTransfer | None = None
    warrant: bool | None = None


class Example(Document):
    """One token of somebody, or somebody alone: then ``allow`` says whether they are a member."""

    name: str
    token: Token | None = None
    cant_be_evil: str | None = None
    """What the contract answers to getLicenseName()."""
    licence_uri: str | None = None
    """The URI of the token's licence by ERC-5218."""
    metadata_licence: str | None = None
    held_days: Annotated[int, Field(ge=0)] | None = None
    held_blocks: Annotated[int, Field(ge=0)] | None = None
    wallet: Address | None = None
    answers: dict[str, int | None] = Field(default_factory=dict)
    """What the chain answers to the policy's membership, by the requirement's name or contract; others answer 0."""
    expect: Expected

    @model_validator(mode="after")
    def _about_something(self) -> Example:
        if self.token is None and self.wallet is None:
            raise ValueError(f"{self.name!r} is about no token and no wallet")
        return self


class Examples(Document):
    """A file of examples."""

    examples: Annotated[tuple[Example, ...], Field(min_length=1)]


def parse_examples(data: bytes, name: str = "The document") -> Examples:
    """The examples in ``data``; raises BadInput naming what is wrong."""
    return parse(Examples, data, name, "file of examples")


def failures_of(policy: Policy, told: Examples) -> list[str]:
    """One sentence for each example that comes out differently."""
    return [sentence for example in told.examples if (sentence := _failure(policy, example))]


def _failure(policy: Policy, example: Example) -> str:
    standing = _standing(policy, example)
    if example.token is None:
        member = standing is None or standing.member
        if member == example.expect.allow:
            return ""
        why = standing.reason if standing else "The policy takes everybody who owns an admitted token."
        return f"{example.name}: expected {_member(example.expect.allow)}, found {_member(member)}: {why}"
    verdict = judge(policy, example.token, _facts(example, standing))
    wrong = _differences(example.expect, verdict)
    return f"{example.name}: expected {'; '.join(wrong)}. {verdict.reason}" if wrong else ""


def _facts(example: Example, standing: Standing | None) -> Facts:
    signals = []
    if example.cant_be_evil is not None:
        signals.append(LicenceSignal(name=example.cant_be_evil, uri=""))
    if example.licence_uri is not None:
        signals.append(LicenceSignal(name="", uri=example.licence_uri, standard="ERC-5218"))
    return Facts(
        signals=tuple(signals), metadata_licence=example.metadata_licence, held=_held(example), standing=standing
    )


def _held(example: Example) -> Held | None:
    days, blocks = example.held_days, example.held_blocks
    if days is None and blocks is None:
        return None
    seconds = days * DAY_SECONDS if days is not None else (blocks or 0) * BLOCK_SECONDS
    return Held(blocks=blocks if blocks is not None else seconds // BLOCK_SECONDS, seconds=seconds)


def _standing(policy: Policy, example: Example) -> Standing | None:
    """None where the policy asks for no membership, or a token's example says nothing of its owner."""
    if policy.membership is None or (example.token and example.wallet is None and not example.answers):
        return None
    holding: dict[Question, int | None] = {
        one: example.answers.get(one.name, example.answers.get(one.contract, 0))
        for one in questions_of(policy.membership)
    }
    return standing_of(policy.membership, (example.wallet,) if example.wallet else (), holding)


def _differences(expected: Expected, verdict: Verdict) -> Sequence[str]:
    """ "deny, found allow", a field each."""
    pairs = (
        ("", _word(expected.allow), _word(verdict.allow)),
        ("rule ", expected.rule, verdict.rule),
        ("licence ", expected.licence, verdict.licence),
        ("duties ", _listed(expected.duties), _listed(verdict.duties)),
        ("on_transfer ", expected.on_transfer, verdict.on_transfer),
        ("warrant ", expected.warrant, verdict.warrant),
    )
    return [f"{what}{want}, found {got}" for what, want, got in pairs if want is not None and want != got]


def _listed(duties: Sequence[Duty] | None) -> str | None:
    return None if duties is None else ", ".join(sorted(map(str, duties))) or "none"


def _word(allow: bool) -> str:
    return "allow" if allow else "deny"


def _member(member: bool) -> str:
    return "a member" if member else "no member"
