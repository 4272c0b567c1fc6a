"""Device login: a machine without a wallet gets its grant from a browser that has one (after RFC 8628).

The machine asks its coordinator for a code, shows link, code and fingerprint, and polls. What comes back was signed by
a wallet but handed on by the coordinator, so it is checked here as if it had been signed here.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import segno
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from client.coordinator_api import Dao, DeviceAnswer, DeviceCode
from client.wallet.grant import unusable
from contracts_abi.facts import read_facts
from contracts_abi.model import Token
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.signatures import AskWallet, at_block
from protocol import node_key
from protocol.errors import NotAllowed, NotSignedIn, Unreachable
from protocol.grant import WARRANT, Grant, require_signer
from protocol.policy import Facts, Policy, Verdict, judge

MAX_SECONDS = 366 * 24 * 3600
_AGAIN = "Nothing was kept. Join again; tell the DAO if it happens twice."


class Poll(Protocol):
    def __call__(self, device_code: str) -> DeviceAnswer: ...


def wait_for_grant(
    poll: Poll, code: DeviceCode, pause: Callable[[float], None], clock: Callable[[], float]
) -> tuple[Grant, str]:
    """Poll until the person has answered; the grant and its signature. ``clock`` in seconds, from any zero.

    A coordinator that does not answer for a while is asked again, until the code has expired.

    Raises:
        NotAllowed: the person refused.
        NotSignedIn: nobody answered in time.
        Unreachable: the coordinator did not answer to the end.
    """
    ends, interval = clock() + code.expires_in, float(code.interval)
    while True:
        pause(interval)
        try:
            answer = poll(code.device_code)
        except Unreachable:
            if clock() >= ends:
                raise
            interval = min(interval * 2, 30.0)
            continue
        if answer.state == "done" and answer.grant and answer.signature:
            return answer.grant, answer.signature
        if answer.state == "denied":
            raise NotAllowed("The grant was refused in the browser.", "Join again to ask again.")
        if answer.state == "expired" or clock() >= ends:
            raise NotSignedIn("Nobody answered in time, and the code has expired.", "Join again to get a new one.")
        interval = float(answer.interval)


@dataclass(frozen=True)
class OwnChain:
    """What the member's own chain node says of a grant that came back."""

    facts: Mapping[Token, Facts]
    lost: Collection[Token]
    """Granted tokens that the wallet does not hold."""
    ask_wallet: AskWallet

    @classmethod
    def asked(cls, rpc: Rpc, policy: Policy, grant: Grant) -> Self:
        """Raises Unreachable when the node does not answer."""
        snapshot = finalized_snapshot(rpc)
        return cls(
            read_facts(rpc, policy, grant.tokens, (grant.member,), snapshot),
            unusable(rpc, policy, grant.member, grant.tokens, snapshot),
            at_block(rpc, snapshot),
        )


def require_granted_here(
    dao: Dao, grant: Grant, signature: str, public: str, chain: OwnChain, now: int
) -> tuple[Verdict, ...]:
    """The grant is this DAO's, for this machine, over tokens that its policy admits; the verdicts on them.

    ``public`` is this machine's node key.

    Raises:
        NotAllowed: with the first thing that is wrong.
    """
    for what, said, meant in (
        ("node key", grant.node_key, public),
        ("DAO", grant.dao, dao.name),
        ("chain", grant.chain_id, dao.chain_id),
        ("purpose", grant.purpose, dao.policy.purpose),
        ("policy", grant.policy_hash, dao.policy_hash),
        ("base", grant.base_hash, dao.base.hash),
    ):
        if said != meant:
            raise NotAllowed(f"The grant that came back is for another {what}: {said}, not {meant}.", _AGAIN)
    if not now < grant.expires <= now + MAX_SECONDS:
        raise NotAllowed("The grant that came back does not end within a year.", _AGAIN)
    require_signer(grant, signature, grant.member, chain.ask_wallet)
    verdicts = tuple(judge(dao.policy, token, chain.facts.get(token)) for token in grant.tokens)
    if not verdicts or len(set(grant.tokens)) != len(grant.tokens):
        raise NotAllowed("The grant that came back names no token, or one twice.", _AGAIN)
    if denied := next((verdict for verdict in verdicts if not verdict.allow), None):
        raise NotAllowed(
            f"The grant that came back holds {denied.token}, which the policy denies: {denied.reason}", _AGAIN
        )
    if strange := next((token for token in grant.tokens if token in chain.lost), None):
        raise NotAllowed(f"The grant that came back holds {strange}, which is not {grant.member}'s.", _AGAIN)
    if grant.warrant != (WARRANT if any(verdict.warrant for verdict in verdicts) else ""):
        raise NotAllowed("The grant that came back warrants what its tokens do not ask for.", _AGAIN)
    return verdicts


def code_panel(code: DeviceCode, public: str, name: str) -> RenderableType:
    """What the page has to show too, for the person to compare."""
    grid = Table.grid(padding=(0, 2))
    for what, value in (("code", code.user_code), ("node key", node_key.fingerprint(public)), ("machine", name)):
        grid.add_row(what, Text(value, style="bold"))
    minutes = max(code.expires_in // 60, 1)
    return Panel(
        Group(
            "The page must show the same:\n",
            grid,
            f"\nIf it shows anything else, close it. The code is good for {minutes} minutes.",
            "This machine never sees the wallet's key.",
        ),
        title="Sign with your wallet, in any browser",
        title_align="left",
        expand=False,
    )


def qr(text: str) -> Text:
    """A QR code (ISO/IEC 18004), two rows of modules in one of text, black on white whatever the terminal's colours."""
    rows = [tuple(bool(module) for module in row) for row in segno.make_qr(text, error="l").matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append((False,) * len(rows[0]))
    blocks = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    lines = (
        "".join(blocks[pair] for pair in zip(*two, strict=True)) for two in zip(rows[::2], rows[1::2], strict=True)
    )
    return Text("\n").join(Text(line, style="#000000 on #ffffff", no_wrap=True) for line in lines)


def granted_sentence(grant: Grant) -> str:
    """Who granted what, in rich's markup."""
    return f"[green]Granted[/] by {escape(grant.member)}: {len(grant.tokens)} tokens. {grant.grant_id}"
