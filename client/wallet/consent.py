"""What a member is shown before signing: each token with its verdict, and what will leave the machine."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from protocol.grant import Grant
from protocol.modes import Mode
from protocol.policy import Policy, Verdict

LEAVES = (
    "the adapter delta: numbers that change the shared model, trained on this machine",
    "statistics: second moments of layer inputs, computed from that delta and the captions alone",
    "the token list, with each picture's hash and its caption (made from its public traits)",
    "signatures by your wallet (sign-in, grant) and your node key (each contribution, progress)",
    "scores: how well merged models do on the pictures that were held out",
    "progress while it works: the stage, step x of y, seconds left; --no-progress keeps that here",
)
IN_PRIVATE_MODES: Mapping[Mode, str] = {
    Mode.SECAGG: "in a secagg round, instead of delta and statistics: a masked update; only the sum of all can be read",
    Mode.DP: "in a dp round, instead of delta and statistics: the update; the release covers it with noise",
}
PUBLISHED = "the DAO publishes delta and statistics with its releases: anyone can read them, for good"
STAYS = "Pictures, the wallet's key and the node's key stay here. Everything that is sent is listed in sent.jsonl."
ASKS = (
    "To read your NFTs' files this machine asks IPFS and Arweave gateways, and the web servers that the NFTs name. "
    "They see its address and which files it wants; allow_https = false in member.toml leaves those web servers out."
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row a token: collection, id, verdict, why."""
    table = Table(title="Your NFTs under the DAO's policy", title_justify="left")
    table.add_column("collection")
    table.add_column("token", justify="right")
    table.add_column("verdict")
    table.add_column("why", overflow="fold")
    for verdict in sorted(verdicts, key=lambda v: (v.collection, v.token)):
        word = "[green]allowed[/]" if verdict.allow else "[red]denied[/]"
        table.add_row(escape(verdict.collection), str(verdict.token.token_id), word, escape(_why(verdict)))
    return table


def consent_panel(grant: Grant, policy: Policy) -> RenderableType:
    """What the grant says, and what leaves the machine once it is signed."""
    until = datetime.fromtimestamp(grant.expires, UTC).date()
    terms = Table.grid(padding=(0, 2))
    for name, value in (
        ("DAO", grant.dao),
        ("purpose", grant.purpose),
        ("tokens", f"{len(grant.tokens)}, until {until}"),
        ("node key", f"{grant.node_key[:18]}… (can train on them, cannot move them)"),
        ("policy", f"{grant.policy_hash[:16]}…"),
        ("base", f"{grant.base_hash[:16]}…"),
        ("warrant", grant.warrant or "none"),
    ):
        terms.add_row(f"[bold]{name}[/]", escape(value))
    private = [what for mode, what in IN_PRIVATE_MODES.items() if mode in policy.modes]
    public = [PUBLISHED] if policy.publish_contributions else []
    leaves = "\n".join(f"  • {what}" for what in (*LEAVES, *private, *public))
    return Group(
        Panel(terms, title="The grant that your wallet signs", title_align="left"),
        Panel(f"{leaves}\n\n{STAYS}\n\n{ASKS}", title="What will leave this machine", title_align="left"),
    )


def _why(verdict: Verdict) -> str:
    duties = f" Duties: {', '.join(map(str, verdict.duties))}." if verdict.duties else ""
    return verdict.reason + duties
