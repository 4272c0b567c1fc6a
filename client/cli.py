"""``coterie``: the member's and everybody's commands."""

import platform
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from urllib.parse import urlsplit

import click
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from client.adapter_file import adapter
from client.bars import Bars
from client.base import bring_base
from client.config import MemberSettings, load_settings, remember
from client.coordinator_api import CoordinatorApi, Dao, Eligibility
from client.journal import note_sent
from client.local_training import train
from client.nfts import nfts, signed_in
from client.node.rotation import begin_rotation, undo_rotation
from client.node.supernode import SuperNodeProcess
from client.options import Home, Keystore, RpcUrl, ask_password
from client.progress import ProgressTail
from client.pull.command import pull
from client.pull.sample import sample
from client.revoke import revoke
from client.telling import Telling
from client.verify.command import verify
from client.wallet.consent import consent_panel, verdict_table
from client.wallet.device import OwnChain, code_panel, granted_sentence, qr, require_granted_here, wait_for_grant
from client.wallet.grant import (
    StoredGrant,
    build_grant,
    require_policy,
    standing_grant,
    stored_grants,
)
from client.wallet.key import Wallet, at_hand, load_wallet
from client.wallet.renewal import renewed
from client.wallet.sign_in import require_own_domain
from client.watch.command import watch
from contracts_abi.rpc import Rpc
from protocol import node_key
from protocol.base import base_hash
from protocol.errors import BadInput, CoterieError, NotAllowed
from protocol.grant import Grant

console = Console()


class _OneSentence(TyperGroup):
    """Errors that a person can be told end as one red sentence and a hint, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CoterieError as error:
            problem = Console(stderr=True, soft_wrap=True)
            problem.print(f"[bold red]{escape(error.message)}[/]", highlight=False)
            if error.hint:
                problem.print(escape(error.hint), highlight=False)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    add_completion=False,
    help="""
Train one shared image model together with the other members of your DAO, on the NFTs you own.

Your pictures stay on your machine. It learns from them here and sends only what it learned: a small file of numbers
(an "adapter"). The DAO's coordinator merges the adapters of all members into one model that anyone can use.

[bold]To take part:[/] coterie nfts URL shows which of your NFTs the DAO would train on, and why; coterie join URL
takes part. URL is the address of your DAO's coordinator.

[bold]To use a model:[/] coterie pull CID --gateway URL fetches a published one and checks every byte; --comfyui FOLDER
puts it where ComfyUI finds it.
""",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Address of the DAO's coordinator, as the DAO publishes it.")]


@app.command()
def join(
    url: Url,
    home: Home = None,
    rpc: RpcUrl = None,
    keystore: Keystore = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: grant everything that the policy allows.")] = False,
    name: Annotated[
        str | None, typer.Option(help="What the page that signs calls this machine; its host name.")
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Ask for a new grant although one is in force, for newly bought NFTs.")
    ] = False,
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="Don't tell the coordinator how far the training is.")
    ] = False,
) -> None:
    """Take part: sign in, see what the policy says of each NFT, grant, and train when a round starts.

    Your wallet signs twice: that it is yours, and which NFTs this machine may train on until when. Neither moves
    anything. The wallet need not be here: a link, a code and a QR code are shown, to sign in any browser. With
    --keystore or the key in COTERIE_WALLET_KEY it signs here. Then the machine waits for rounds, with a progress bar
    while it trains, until you press Ctrl-C.
    """
    settings = load_settings(home, rpc_url=rpc, tell_progress=False if no_progress else None)
    api = CoordinatorApi(url)
    dao = api.dao()
    require_policy(dao)
    _require_ready(settings, dao)
    if at_hand(keystore) or anew or not _goes_on(api, dao, settings):
        _obtain_grant(api, dao, settings, keystore, yes, name or platform.node())
    remember(settings.model_copy(update={"coordinator": api.url}), "coordinator", "rpc_url", "gateways", "base")
    _run_node(api, dao, settings)


@app.command("rotate-key")
def rotate_key(
    url: Url,
    home: Home = None,
    rpc: RpcUrl = None,
    keystore: Keystore = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: grant everything that the policy allows.")] = False,
    name: Annotated[
        str | None, typer.Option(help="What the page that signs calls this machine; its host name.")
    ] = None,
) -> None:
    """Give this machine a new node key: a new grant for it, and the old key is shut out for good.

    End coterie join first, and start it again afterwards. A grant names its node key, so your wallet has to sign a new
    one. What was contributed with the old key stays.
    """
    settings = load_settings(home, rpc_url=rpc)
    api = CoordinatorApi(url)
    dao = api.dao()
    require_policy(dao)
    _require_ready(settings, dao)
    if not stored_grants(settings.home):
        raise BadInput("This machine's node key is in no grant yet.", "Join first; a key is changed after that.")
    old = begin_rotation(settings.node_key)
    try:
        _obtain_grant(api, dao, settings, keystore, yes, name or platform.node())
    except BaseException:
        undo_rotation(settings.node_key)
        raise
    order = node_key.RetireKey(dao=dao.name, old=node_key.public_of(old), new=node_key.public_of(settings.node_key))
    api.retire_key(order, node_key.sign(old, order.canonical()))
    old.unlink()
    console.print(
        f"The node key is now {node_key.fingerprint(order.new)}; {node_key.fingerprint(order.old)} is shut out. "
        "Go on with coterie join.",
        highlight=False,
    )


app.command()(nfts)


app.command()(pull)
app.command()(sample)
app.command()(adapter)
app.command()(train)
app.command()(verify)
app.command()(revoke)
app.command()(watch)


@app.command()
def status(url: Url) -> None:
    """Show what a DAO has trained: its rounds and its newest model."""
    api = CoordinatorApi(url)
    dao, rounds, releases = api.dao(), api.rounds(), api.releases()
    console.print(f"[bold]{escape(dao.name)}[/]: {escape(dao.purpose)}")
    console.print(
        f"Base {escape(dao.base.name)}, policy {dao.policy_hash[:16]}…, chain {dao.chain_id}", highlight=False
    )
    table = Table("round", "kind", "state", "contributions", "model, or why there is none")
    for entry in rounds:
        contributions = f"{entry.contributed} of {entry.expected}"
        table.add_row(str(entry.number), entry.kind, entry.state, contributions, escape(entry.cid or entry.reason))
    console.print(table if rounds else "No round has been started yet.")
    if releases:
        note = " (something it was made from has ended; a new one follows)" if releases[0].withdrawn else ""
        console.print(f"Newest model: {releases[0].cid}{note}", highlight=False)


def _require_ready(settings: MemberSettings, dao: Dao) -> None:
    """What would only fail at the first round is said before anything is signed."""
    if not settings.rpc_url:
        raise BadInput(
            "This machine knows no chain node to ask about licences and pictures.",
            f"Name one that you trust for chain {dao.chain_id} with --rpc or COTERIE_RPC_URL.",
        )
    bring_base(settings.base, dao.base.hash, settings.home, settings.gateways or dao.gateways)
    if base_hash(settings.base) != dao.base.hash:
        raise NotAllowed(
            f"The DAO trains on {dao.base.name}, and the base in {settings.base} is another one.",
            "Put that base's folder, owner/name@commit or ipfs://CID into COTERIE_BASE or member.toml.",
        )
    node_key.create(settings.node_key)


def _obtain_grant(
    api: CoordinatorApi, dao: Dao, settings: MemberSettings, keystore: Path | None, yes: bool, name: str
) -> None:
    """By the wallet that is at hand, else by one in a browser anywhere."""
    if not at_hand(keystore):
        grant_from_browser(api, dao, settings, name)
        return
    wallet = load_wallet(keystore, ask_password)
    eligibility = signed_in(api, dao, wallet, settings)
    console.print(verdict_table(eligibility.verdicts))
    _grant(api, dao, wallet, eligibility, settings, yes)


def _grant(
    api: CoordinatorApi, dao: Dao, wallet: Wallet, eligibility: Eligibility, settings: MemberSettings, yes: bool
) -> None:
    """Show what is signed and what leaves, ask, sign, hand in, keep."""
    public = node_key.public_of(settings.node_key)
    grant = build_grant(dao, wallet.address, eligibility.verdicts, public, int(time.time()))
    console.print(consent_panel(grant, dao.policy))
    if not yes:
        typer.confirm("Sign this grant?", abort=True)
    signature = wallet.sign_grant(grant)
    api.send_grant(grant, signature)
    _keep(api, dao, settings, grant, signature)
    note_sent(settings.home, f"grant {grant.grant_id}", {"grant": grant.canonical(), "signature": signature})
    console.print(f"[green]Granted.[/] {grant.grant_id}", highlight=False)


def grant_from_browser(api: CoordinatorApi, dao: Dao, settings: MemberSettings, name: str) -> None:
    """Device login: show link, code and fingerprint, wait, check what comes back, keep it."""
    require_own_domain(api.url, dao.domain, dao.uri)
    public = node_key.public_of(settings.node_key)
    code = api.ask_for_grant(public, name)
    note_sent(settings.home, "device login", {"node_key": public, "name": name})
    require_own_domain(api.url, urlsplit(code.verification_uri_complete).netloc, code.verification_uri_complete)
    if console.is_terminal and console.color_system:  # without colours a dark terminal would show it inverted
        console.print(qr(code.verification_uri_complete))
    console.print(code_panel(code, public, name))
    console.print("Open this link where your wallet is:")
    console.print(f"  {code.verification_uri_complete}", soft_wrap=True, markup=False, highlight=False)
    with console.status("Waiting for your wallet …"):
        grant, signature = wait_for_grant(api.poll_device, code, time.sleep, time.monotonic)
    chain = Rpc(settings.rpc_url)
    own = OwnChain.asked(chain, dao.policy, grant)
    verdicts = require_granted_here(dao, grant, signature, public, own, int(time.time()))
    console.print(verdict_table(verdicts))
    console.print(consent_panel(grant, dao.policy))
    _keep(api, dao, settings, grant, signature)
    console.print(granted_sentence(grant), highlight=False)


def _goes_on(api: CoordinatorApi, dao: Dao, settings: MemberSettings) -> bool:
    """Whether a grant to this very machine is in force, so that nobody has to sign after every restart."""
    public = node_key.public_of(settings.node_key)
    grant = standing_grant(stored_grants(settings.home), dao, public, int(time.time()))
    if grant is None or not api.grant_stands(grant.grant_id):
        newer = renewed(api, settings, public)
        grant = newer.grant if newer else None
    if grant is None:
        return False
    until = datetime.fromtimestamp(grant.expires, UTC).date()
    console.print(
        f"Going on with the grant of {escape(grant.member)} over {len(grant.tokens)} tokens, until {until}. "
        "With --anew a new one is asked for.",
        highlight=False,
    )
    return True


def _keep(api: CoordinatorApi, dao: Dao, settings: MemberSettings, grant: Grant, signature: str) -> None:
    StoredGrant(grant=grant, signature=signature, policy=dao.policy, coordinator=api.url, gateways=dao.gateways).save(
        settings.home
    )


def _run_node(api: CoordinatorApi, dao: Dao, settings: MemberSettings) -> None:
    """The SuperNode in the foreground, until Ctrl-C or SIGTERM."""
    certificate = settings.home / "superlink.pem"
    certificate.write_text(dao.superlink.root_certificate)
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    node = SuperNodeProcess(settings.home, dao.superlink.address, certificate, settings.node_key)
    tail = ProgressTail(settings.home)
    try:
        with ExitStack() as running:
            running.enter_context(node)
            shown: list[Bars | Telling] = [running.enter_context(Bars(console))]
            console.print(
                f"Waiting for a round of {escape(dao.name)}. Ctrl-C ends. Log: {node.log_file}", highlight=False
            )
            if settings.tell_progress:
                shown.append(running.enter_context(Telling(CoordinatorApi(api.url), settings.home, settings.node_key)))
                console.print("How far it is, the DAO's admins see too: step and time left. Not with --no-progress.")
            while True:
                for update in tail.new():
                    for one in shown:
                        one.show(update)
                time.sleep(0.25)
    except KeyboardInterrupt:
        console.print("Left. Your grant stays; join again to go on.")


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
