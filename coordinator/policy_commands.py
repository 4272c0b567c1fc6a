"""``coterie-coordinator policy``: ask a policy document before it is in force, and test it against examples."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from eth_utils.address import is_address, to_checksum_address
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts_abi.membership import read_standing
from contracts_abi.model import Snapshot
from contracts_abi.ownership.discovery import Sources
from contracts_abi.rpc import Rpc
from coordinator.config import ENVIRONMENT_PREFIX, load_policy
from coordinator.eligibility.verdicts import take_snapshot, verdicts_for
from protocol.errors import BadInput
from protocol.policy import Policy, Standing, Verdict
from protocol.policy.examples import failures_of, parse_examples
from protocol.policy.schema import policy_schema
from protocol.unixfs import build_file

policy_app = typer.Typer(help="Ask a policy document before it is in force.", no_args_is_help=True)
out = Console()
Document = Annotated[Path, typer.Argument(help="The policy document, JSON.")]


@policy_app.command("check")
def check_policy(
    file: Document,
    wallet: Annotated[str, typer.Option(help="The wallet to ask about, 0x….")],
    rpc: Annotated[
        str, typer.Option(envvar=f"{ENVIRONMENT_PREFIX}RPC_URL", help="JSON-RPC URL of the policy's chain.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts for programs.")] = False,
) -> None:
    """Show the verdict on each of a wallet's tokens, and why."""
    if not is_address(wallet):
        raise BadInput(f"{wallet} is no Ethereum address.", "It is 0x and 40 hex digits.")
    policy, owner = load_policy(file), to_checksum_address(wallet)
    if not rpc:
        raise BadInput("No chain node is named to ask.", f"Name one with --rpc or {ENVIRONMENT_PREFIX}RPC_URL.")
    chain = Rpc(rpc)
    snapshot = take_snapshot(chain, policy)
    standing = read_standing(chain, policy.membership, (owner,), snapshot) if policy.membership else None
    found = verdicts_for(chain, policy, owner, snapshot, Sources(patience_s=float("inf")))
    if as_json:
        print(json.dumps(_explained(policy, owner, snapshot, standing, found), indent=2, ensure_ascii=False))
        return
    if standing:
        word = "[green]a member[/]" if standing.member else "[red]no member[/]"
        out.print(f"{owner} is {word}: {escape(standing.reason)}", highlight=False)
    out.print(_table(found))
    admitted = sum(verdict.allow for verdict in found)
    out.print(f"{admitted} of {len(found)} tokens are admitted at block {snapshot.number}.", highlight=False)
    if admitted < policy.minimum_tokens:
        out.print(f"The policy asks for {policy.minimum_tokens}, so this wallet takes no part.", highlight=False)


@policy_app.command("test")
def test_policy(
    file: Document,
    examples: Annotated[Path, typer.Argument(help="Examples with what is expected of each, JSON.")],
) -> None:
    """Judge examples by the policy; a sentence for each that comes out differently, and then exit status 1."""
    policy = load_policy(file)
    try:
        data = examples.read_bytes()
    except OSError as error:
        raise BadInput(
            f"There are no examples {examples}.", "Name a file of examples; docs/policy.md has one."
        ) from error
    told = parse_examples(data, str(examples))
    failures = failures_of(policy, told)
    for failure in failures:
        out.print(escape(failure), style="red", highlight=False, soft_wrap=True)
    right = len(told.examples) - len(failures)
    out.print(f"{right} of {len(told.examples)} examples come out as expected.", highlight=False)
    if failures:
        raise typer.Exit(1)


@policy_app.command("hash")
def hash_policy(file: Document) -> None:
    """Print the hash that grants and rounds are bound to."""
    print(load_policy(file).digest())


@policy_app.command("cid")
def cid_policy(file: Document) -> None:
    """Print the CID of the policy's canonical form: policy.json in every release under it."""
    cid, _ = build_file(load_policy(file).canonical())
    print(cid)


@policy_app.command("schema")
def schema_policy() -> None:
    """Print the JSON Schema of policy documents."""
    print(json.dumps(policy_schema(), indent=2, ensure_ascii=False))


def _explained(
    policy: Policy, wallet: str, snapshot: Snapshot, standing: Standing | None, verdicts: list[Verdict]
) -> dict[str, Any]:
    return {
        "policy_hash": policy.digest(),
        "wallet": wallet,
        "snapshot": snapshot.model_dump(mode="json"),
        "member": standing.model_dump(mode="json") if standing else None,
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
    }


def _table(verdicts: list[Verdict]) -> Table:
    table = Table("token", "collection", "verdict", "rule", "licence", "when sold", "reason")
    for one in verdicts:
        word = "[green]admitted[/]" if one.allow else "[red]denied[/]"
        duties = f" Duties: {'; '.join(map(str, one.duties))}." if one.allow and one.duties else ""
        reason, sold = escape(one.reason + duties), str(one.on_transfer) if one.allow else ""
        number = str(one.token.token_id)
        table.add_row(number, escape(one.collection), word, one.rule, escape(one.licence or ""), sold, reason)
    return table
