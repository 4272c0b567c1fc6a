"""``coterie revoke``: end what was granted, and have what came of it taken out of the model."""

import secrets
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from client.config import load_settings
from client.coordinator_api import CoordinatorApi, Dao
from client.journal import note_sent
from client.options import Home, Keystore, ask_password
from client.wallet.grant import FOLDER, require_policy, stored_grants
from client.wallet.key import load_wallet
from protocol.acts import RevokeGrant
from protocol.errors import BadInput, NotAllowed
from protocol.grant import Grant

SECONDS = 600
"""How long the signed order is good."""

console = Console()


def revoke(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the DAO's coordinator.")],
    grant: Annotated[
        list[str] | None, typer.Argument(metavar="[GRANT]...", help="Ids of grants; all that this machine keeps.")
    ] = None,
    home: Home = None,
    keystore: Keystore = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Take your grant back: nothing more is trained under it, and the model is made again without what was.

    Works at any time, from any machine that has the wallet. What others have already downloaded stays with them.
    """
    settings = load_settings(home)
    api = CoordinatorApi(url)
    dao = api.dao()
    require_policy(dao)
    wallet = load_wallet(keystore, ask_password)
    for one in _grants(api, grant, wallet.address, settings.home):
        _require_own(one, dao, wallet.address)
        console.print(f"Grant {one.grant_id}: {len(one.tokens)} tokens, for {escape(one.purpose)}", highlight=False)
        if not yes:
            typer.confirm("Revoke it, and have everything that came of it removed?", abort=True)
        order = RevokeGrant(
            dao=dao.name,
            chain_id=dao.chain_id,
            member=wallet.address,
            grant_hash=one.digest(),
            nonce=secrets.token_hex(16),
            expires=int(time.time()) + SECONDS,
        )
        signature = wallet.sign_order(order)
        removal = api.revoke(order, signature)
        note_sent(settings.home, f"revocation {one.grant_id}", {"order": order.canonical(), "signature": signature})
        _put_aside(settings.home, one.grant_id)
        follows = f"Round {removal} makes the model again without it." if removal else "It was in no published model."
        console.print(f"[green]Revoked.[/] {follows}", highlight=False)


def _grants(api: CoordinatorApi, named: list[str] | None, member: str, home: Path) -> list[Grant]:
    if named:
        return [api.grant(grant_id) for grant_id in named]
    kept = [one.grant for one in stored_grants(home) if one.coordinator == api.url and one.grant.member == member]
    if not kept:
        raise BadInput(
            f"This machine keeps no grant of {member} to {api.url}.",
            "Name the grant's id: coterie join printed it, and sent.jsonl of the machine that joined has it.",
        )
    return kept


def _require_own(grant: Grant, dao: Dao, member: str) -> None:
    """The coordinator answers for ids: what it hands out must be this wallet's grant to this DAO."""
    if (grant.member, grant.dao, grant.chain_id) != (member, dao.name, dao.chain_id):
        raise NotAllowed(
            f"Grant {grant.grant_id} is {grant.member}'s to {grant.dao}, so nothing was signed.",
            "Revoke it with the wallet that gave it, at the DAO that has it.",
        )


def _put_aside(home: Path, grant_id: str) -> None:
    """The node trains under what is in the folder; a revoked grant is kept under another name."""
    path = home / FOLDER / f"{grant_id}.json"
    if path.is_file():
        path.rename(path.with_suffix(".revoked"))
