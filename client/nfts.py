"""``coterie nfts``: what of a wallet would be trained on, in which words, how much, and why.

By the very code that builds the dataset for training; nothing is granted or kept unless it is asked for.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer
from eth_utils.address import is_address, to_checksum_address
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from client.collection.base_size import picture_size
from client.collection.choice import ALL, Choice
from client.collection.choice_file import FILE, choice_from, load_choice, save_choice
from client.collection.croissant import croissant
from client.collection.dataset import Candidate, Dataset, Source, dataset_of, survey
from client.collection.sheet import contact_sheet
from client.config import MemberSettings, load_settings
from client.coordinator_api import CoordinatorApi, Dao, Eligibility
from client.media.resolver import media_of
from client.options import Home, Keystore, RpcUrl, ask_password
from client.wallet.consent import verdict_table
from client.wallet.grant import StoredGrant, require_own_judgement, require_policy, stored_grants, unusable
from client.wallet.key import Wallet, load_wallet
from contracts_abi.facts import read_facts
from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.checkpoints import CheckpointFolder
from contracts_abi.ownership.discovery import Sources, held_tokens
from contracts_abi.ownership.terms import Ownership
from contracts_abi.readers import finalized_snapshot, token_uris
from contracts_abi.rpc import Rpc
from protocol.errors import BadInput, NotAllowed
from protocol.policy import LICENCES, Verdict, judge

NO_DAO = "no DAO was asked"

console = Console()


@dataclass(frozen=True)
class Holding:
    """Tokens of one wallet and what a policy says of them at a block."""

    owner: str
    url: str
    """Of the DAO or its coordinator, where there is one."""
    verdicts: tuple[Verdict, ...]
    snapshot: Snapshot
    gateways: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One token as it is shown."""

    token: Token
    collection: str
    caption: str
    taken: bool
    because: str
    weight: float
    weight_because: str
    height: int
    width: int
    rule: str
    held_out: bool


def nfts(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="Address of a DAO's coordinator: signs in there. None: your stored grants."),
    ] = None,
    home: Home = None,
    rpc: RpcUrl = None,
    keystore: Keystore = None,
    contract: Annotated[
        str | None, typer.Option(help="Instead of a DAO: a collection's contract, together with --wallet.")
    ] = None,
    wallet: Annotated[
        str | None, typer.Option(help="Whose tokens in --contract; any address, nothing is signed.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Train on these only: 0x<contract>, 0x<contract>:12 or 0x<contract>:1-20.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Never train on these; written as for --include.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="By trait: head=fence, head!=fog, fur=gold*.")] = None,
    star: Annotated[list[str] | None, typer.Option(help="0x<contract>:12=5: how much you like it, 1 to 5.")] = None,
    by_rarity: Annotated[
        bool | None, typer.Option("--by-rarity/--not-by-rarity", help="Let rare tokens count more.")
    ] = None,
    trigger: Annotated[str | None, typer.Option(help="A word of yours that every caption begins with.")] = None,
    template: Annotated[str | None, typer.Option(help="Captions, for instance '{trigger}, {name}: {phrases}'.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Forget the kept choice first.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Keep the choice: training goes by it from now on.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of all of them, a PNG.")] = None,
    croissant_file: Annotated[
        Path | None, typer.Option("--croissant", help="Write the dataset's description in MLCommons Croissant.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show which of your NFTs would be trained on, in which words, how much each counts, and why. Grants nothing.

    By your stored grants; with URL also before you join; with --contract and --wallet without any DAO.
    """
    settings = load_settings(home, rpc_url=rpc)
    changes = _changes(include, exclude, where, star, by_rarity, trigger, template)
    choice = choice_with(Choice() if anew else load_choice(settings.home), changes)
    holding = _holding(settings, url, keystore, contract, wallet)
    if not settings.rpc_url:
        console.print(verdict_table(holding.verdicts))
        console.print("Name a chain node with --rpc, and captions, weights and pictures are shown too.")
        return
    size = picture_size(settings.base)
    candidates = _survey(holding, settings, size, choice, open_all=sheet is not None)
    dataset = dataset_of(candidates, size) if any(one.taken for one in candidates) else None
    rows = rows_of(holding, candidates, dataset)
    if as_json:
        typer.echo(json.dumps(as_document(rows, dataset), indent=2, ensure_ascii=False))
    else:
        console.print(shown(rows, choice, dataset))
    if sheet:
        file = BytesIO()
        contact_sheet(candidates).save(file, "PNG")
        _write(sheet, file.getvalue())
    if croissant_file:
        _write(croissant_file, json.dumps(_described(holding, dataset), indent=2, ensure_ascii=False).encode())
    if save:
        save_choice(choice, settings.home)
    elif (changes or anew) and not as_json:
        console.print("[yellow]Not kept.[/] Add --save, and training goes by this choice.")


def signed_in(api: CoordinatorApi, dao: Dao, wallet: Wallet, settings: MemberSettings) -> Eligibility:
    """Sign in and take the verdicts, each judged again here."""
    api.sign_in(wallet, dao)
    eligibility = api.verdicts()
    facts, lost = None, frozenset[Token]()
    if settings.rpc_url:
        chain, snapshot = Rpc(settings.rpc_url), eligibility.snapshot
        tokens = [verdict.token for verdict in eligibility.verdicts]
        facts = read_facts(chain, dao.policy, tokens, (wallet.address,), snapshot)
        denied = [verdict.token for verdict in eligibility.verdicts if not verdict.allow]
        lost = unusable(chain, dao.policy, wallet.address, denied, snapshot)
    require_own_judgement(dao.policy, eligibility.verdicts, facts, lost)
    return eligibility


def choice_with(choice: Choice, changes: Mapping[str, Any]) -> Choice:
    """The choice with ``changes`` added: lists and stars grow, words replace.

    Raises:
        BadInput: a change that is no choice.
    """
    now = choice.model_dump(mode="json")
    for name in ("include", "exclude", "where"):
        now[name] = list(dict.fromkeys([*now[name], *changes.get(name, ())]))
    now["stars"] = {**now["stars"], **changes.get("stars", {})}
    if "by_rarity" in changes:
        now["weigh_by"] = [*(b for b in now["weigh_by"] if b != "rarity"), *["rarity"] * changes["by_rarity"]]
    words = {name: changes[name] for name in ("trigger", "template") if name in changes}
    if words:
        now["captions"] = {**now["captions"], ALL: {**now["captions"].get(ALL, {}), **words}}
    return choice_from(now)


def rows_of(holding: Holding, candidates: Sequence[Candidate], dataset: Dataset | None) -> list[Row]:
    """Every token of the holding, by collection and id."""
    found = {one.source.token: one for one in candidates}
    held_out = {use.token for use in (dataset.uses if dataset else ()) if use.held_out}
    ordered = sorted(holding.verdicts, key=lambda verdict: (verdict.collection, verdict.token))
    return [_row(verdict, found.get(verdict.token), held_out) for verdict in ordered]


def as_document(rows: Sequence[Row], dataset: Dataset | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "dataset_sha256": dataset.lock.digest() if dataset else None,
        "tokens": [{**vars(row), "token": str(row.token)} for row in rows],
    }


def shown(rows: Sequence[Row], choice: Choice, dataset: Dataset | None) -> RenderableType:
    """The sum of it first, then one row a token."""
    taken = [row for row in rows if row.taken]
    kept = sum(row.held_out for row in taken)
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=("", "on grey7"))
    table.add_column("token", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("because", overflow="fold", ratio=3)
    table.add_column("caption", overflow="fold", ratio=4)
    table.add_column("weight", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("rule")
    last = ""
    for row in rows:
        if row.collection != last:
            table.add_row("", "", Text(row.collection, style="bold"), end_section=False)
            last = row.collection
        table.add_row(*_cells(row))
    head = f"[bold]{len(taken)} of {len(rows)} NFTs would be trained on[/]"
    notes = [f"{head}; {kept} of them are held out, to score models with." if kept else f"{head}."]
    notes += [f"[yellow]{note}[/]" for note in _notes(rows, choice)]
    if dataset:
        notes.append(f"[dim]Dataset {dataset.lock.digest()[:16]}…: the same tokens and choice give the same one.[/]")
    return Group(*notes[:1], "", table, "", *notes[1:])


def _cells(row: Row) -> tuple[RenderableType, ...]:
    mark = "[green]✓ held out[/]" if row.held_out else "[green]✓[/]" if row.taken else "[red]✗[/]"
    size = f"{row.width}x{row.height}" if row.taken else ""
    because = f"{row.because}; {row.weight_because}" if row.weight_because else row.because
    number = str(row.token.token_id)
    number = number if len(number) <= 12 else f"{number[:5]}…{number[-5:]}"
    weight = f"{row.weight:.2f}" if row.taken else ""
    style = "" if row.taken else "dim"
    return number, mark, Text(because, style=style), Text(row.caption, style=style), weight, size, escape(row.rule)


def _notes(rows: Sequence[Row], choice: Choice) -> Iterable[str]:
    if "rarity" in choice.weigh_by:
        yield "Rarity is among the tokens shown here, not among the whole collection."
    if "holding" in choice.weigh_by:
        yield "How long tokens were held is not known here, so it does not weigh."
    if sum(row.taken for row in rows) == 1:
        yield "One single picture: the model will learn to repeat it. A few more make it a style."


def _holding(
    settings: MemberSettings, url: str | None, keystore: Path | None, contract: str | None, wallet: str | None
) -> Holding:
    if bool(contract) != bool(wallet):
        raise BadInput("--contract and --wallet belong together.", "Name both, or neither.")
    if url and contract:
        raise BadInput("Either a DAO's URL is asked, or a contract for a wallet's tokens.", "Leave one of them out.")
    if url:
        return _of_dao(settings, url, keystore)
    if not settings.rpc_url:
        raise BadInput(
            "This machine knows no chain node to ask about your NFTs.",
            "Name one that you trust with --rpc or COTERIE_RPC_URL.",
        )
    chain = Rpc(settings.rpc_url)
    if contract and wallet:
        return _of_wallet(settings, chain, _address(contract), _address(wallet))
    return _of_grants(settings, chain)


def _of_dao(settings: MemberSettings, url: str, keystore: Path | None) -> Holding:
    api = CoordinatorApi(url)
    dao = api.dao()
    require_policy(dao)
    wallet = load_wallet(keystore, ask_password)
    eligibility = signed_in(api, dao, wallet, settings)
    gateways = settings.gateways or dao.gateways
    return Holding(wallet.address, api.url, eligibility.verdicts, eligibility.snapshot, gateways)


def _of_wallet(settings: MemberSettings, chain: Rpc, contract: str, wallet: str) -> Holding:
    snapshot = finalized_snapshot(chain)
    sources = Sources(CheckpointFolder(settings.home / "discovery"))
    tokens = held_tokens(chain, wallet, {contract: Ownership()}, snapshot, sources)
    if not tokens:
        raise NotAllowed(
            f"{wallet} holds no tokens of {contract}.", "Check both addresses, and that the chain is the right one."
        )
    verdicts = tuple(
        Verdict(token=token, collection=contract, allow=True, rule="token", licence=None, reason=NO_DAO)
        for token in tokens
    )
    return Holding(wallet, "", verdicts, snapshot, settings.gateways)


def _of_grants(settings: MemberSettings, chain: Rpc) -> Holding:
    """All tokens of this machine's grants in force, each under the policy that it was granted under."""
    grants = [stored for stored in stored_grants(settings.home) if stored.grant.expires > time.time()]
    if not grants:
        raise BadInput(
            f"{settings.home} holds no grant in force.",
            "Join with coterie join URL; or name the DAO's URL, or --contract and --wallet, to look before you join.",
        )
    snapshot = finalized_snapshot(chain)
    verdicts: dict[Token, Verdict] = {}
    for stored in grants:
        for verdict in _granted(chain, stored, snapshot):
            verdicts.setdefault(verdict.token, verdict)
    gateways = settings.gateways or tuple(dict.fromkeys(one for stored in grants for one in stored.gateways))
    first = grants[0]
    return Holding(first.grant.member, first.coordinator, tuple(verdicts.values()), snapshot, gateways)


def _granted(chain: Rpc, stored: StoredGrant, snapshot: Snapshot) -> Iterable[Verdict]:
    facts = read_facts(chain, stored.policy, stored.grant.tokens, (stored.grant.member,), snapshot)
    lost = unusable(chain, stored.policy, stored.grant.member, stored.grant.tokens, snapshot)
    for token in stored.grant.tokens:
        verdict = judge(stored.policy, token, facts[token])
        if token in lost:
            verdict = verdict.model_copy(update={"allow": False, "reason": "it is no longer this wallet's"})
        yield verdict


def _survey(
    holding: Holding, settings: MemberSettings, size: int, choice: Choice, *, open_all: bool
) -> tuple[Candidate, ...]:
    admitted = {verdict.token: verdict for verdict in holding.verdicts if verdict.allow}
    uris = token_uris(Rpc(settings.rpc_url), admitted, holding.snapshot)
    gateways = settings.gateways or holding.gateways
    media = media_of(gateways, settings.arweave_gateways, allow_https=settings.allow_https)
    sources = [Source(token, uris.get(token, ""), _rule(verdict)) for token, verdict in admitted.items()]
    with Console(stderr=True).status("Opening …") as status:
        return survey(
            sources,
            media,
            size,
            lambda done, of: status.update(f"Opening … {done} of {of}"),
            choice,
            open_all=open_all,
        )


def _row(verdict: Verdict, one: Candidate | None, held_out: set[Token]) -> Row:
    picture = one.opened.picture if one else None
    height, width = picture.shape[:2] if picture is not None else (0, 0)
    return Row(
        token=verdict.token,
        collection=verdict.collection,
        caption=one.opened.caption.text if one and one.opened.caption else "",
        taken=bool(one and one.taken),
        because=one.because if one else f"the policy: {verdict.reason}",
        weight=one.weight.value if one else 0.0,
        weight_because=one.weight.because if one else "",
        height=height,
        width=width,
        rule=_rule(verdict),
        held_out=verdict.token in held_out,
    )


def _rule(verdict: Verdict) -> str:
    return NO_DAO if verdict.reason == NO_DAO else verdict.rule


def _described(holding: Holding, dataset: Dataset | None) -> dict[str, Any]:
    if dataset is None:
        raise NotAllowed(
            "No token is left to describe, so no Croissant file was written.", f"The table and {FILE} say why."
        )
    used = {use.token for use in dataset.uses}
    names = {verdict.licence or "unknown" for verdict in holding.verdicts if verdict.token in used}
    return croissant(
        dataset.lock,
        name=f"NFTs of {holding.owner}",
        licences=[LICENCES[name].source if name in LICENCES else name for name in names],
        creator=holding.owner,
        url=holding.url or f"eip155:{holding.snapshot.chain_id}:{holding.owner}",
        published=datetime.fromtimestamp(holding.snapshot.timestamp, UTC).date(),
    )


def _changes(
    include: list[str] | None,
    exclude: list[str] | None,
    where: list[str] | None,
    star: list[str] | None,
    by_rarity: bool | None,
    trigger: str | None,
    template: str | None,
) -> dict[str, Any]:
    """What was given, in the choice's own words."""
    stars = dict(_star(text) for text in star or ())
    given = {
        "include": include,
        "exclude": exclude,
        "where": where,
        "stars": stars or None,
        "by_rarity": by_rarity,
        "trigger": trigger,
        "template": template,
    }
    return {name: value for name, value in given.items() if value is not None}


def _star(text: str) -> tuple[str, str]:
    token, sign, stars = text.partition("=")
    if not sign:
        raise BadInput(f"{text[:80]!r} gives no stars.", "Write --star 0x<contract>:12=5, with 1 to 5 stars.")
    return token.strip(), stars.strip()


def _address(text: str) -> str:
    if not is_address(text):
        raise BadInput(f"{text[:80]!r} is no Ethereum address.", "Write 0x and 40 hexadecimal digits.")
    return to_checksum_address(text)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadInput(
            f"{path} could not be written: {error.strerror}.", "Name a file in a folder that is there and has room."
        ) from error
    console.print(f"Written: {path}", highlight=False, soft_wrap=True)
