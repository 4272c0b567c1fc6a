"""An admin's orders on rounds under way and on single contributions, at a shell."""

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from coordinator.config import CoordinatorSettings
from coordinator.orders import admin_and_end, call, signed_here, write_order
from protocol.acts import (
    AcceptContribution,
    Act,
    AdminAct,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    ResumeRound,
)
from protocol.errors import BadInput
from protocol.grant import StartRound

AnyAct = TypeVar("AnyAct", bound=Act)
Config = Annotated[Path, typer.Option("--config", help="The coordinator's settings, TOML.")]
DEFAULT_CONFIG = Path("coordinator.toml")
Reason = Annotated[str, typer.Option(help="Why, in a sentence; it is signed, and everybody can read it.")]
Admin = Annotated[
    str | None, typer.Option("--admin", help="Who signs, instead of COTERIE_WALLET_KEY: the DAO's Safe. Needs --out.")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="Write the order to a file, to be signed elsewhere, and send nothing.")
]
RoundId = Annotated[str, typer.Argument(help="The round, as `round show` names it.")]
ContributionId = Annotated[str, typer.Argument(help="The contribution, as `round show` names it.")]
out = Console()


def add_to_rounds(app: typer.Typer) -> None:
    """The commands below ``round``."""
    for name, command in (("pause", pause), ("resume", resume), ("extend", extend), ("publish", publish)):
        app.command(name)(command)


def add_to_contributions(app: typer.Typer) -> None:
    """The commands below ``contribution``."""
    app.command("quarantine")(quarantine)
    app.command("accept")(accept)


def pause(
    round_id: RoundId, reason: Reason, config: Config = DEFAULT_CONFIG, admin: Admin = None, out_file: OutFile = None
) -> None:
    """Sign that a training round stands still, and send it."""
    _give_admins(config, admin, out_file, PauseRound, f"rounds/{round_id}/pause", round_id=round_id, reason=reason)


def resume(round_id: RoundId, config: Config = DEFAULT_CONFIG, admin: Admin = None, out_file: OutFile = None) -> None:
    """Sign that a paused round goes on, and send it."""
    _give_admins(config, admin, out_file, ResumeRound, f"rounds/{round_id}/resumption", round_id=round_id)


def extend(
    round_id: RoundId,
    deadline: Annotated[str, typer.Option(help="The new deadline, as 2026-12-01T18:00Z; UTC where it names no zone.")],
    config: Config = DEFAULT_CONFIG,
    admin: Admin = None,
    out_file: OutFile = None,
) -> None:
    """Sign a later deadline for a round in training, and send it."""
    end = _seconds(deadline)
    _give_admins(config, admin, out_file, ExtendRound, f"rounds/{round_id}/extension", round_id=round_id, deadline=end)


def publish(round_id: RoundId, config: Config = DEFAULT_CONFIG, admin: Admin = None, out_file: OutFile = None) -> None:
    """Sign that a round waits for nobody else, and send it."""
    _give_admins(config, admin, out_file, PublishRound, f"rounds/{round_id}/publication", round_id=round_id)


def quarantine(
    contribution_id: ContributionId,
    reason: Reason,
    config: Config = DEFAULT_CONFIG,
    admin: Admin = None,
    out_file: OutFile = None,
) -> None:
    """Sign that a contribution is set aside and not merged, and send it."""
    path = f"contributions/{contribution_id}/quarantine"
    named = {"contribution_id": contribution_id, "reason": reason}
    _give_admins(config, admin, out_file, QuarantineContribution, path, **named)


def accept(
    contribution_id: ContributionId, config: Config = DEFAULT_CONFIG, admin: Admin = None, out_file: OutFile = None
) -> None:
    """Sign that a contribution that was set aside is merged like any other, and send it."""
    path = f"contributions/{contribution_id}/acceptance"
    _give_admins(config, admin, out_file, AcceptContribution, path, contribution_id=contribution_id)


def order_of(kind: type[AnyAct], settings: CoordinatorSettings, **particulars: object) -> AnyAct:
    """An act of this DAO with a fresh nonce. Raises BadInput naming what is wrong."""
    policy = settings.loaded_policy
    fields = {"dao": policy.dao, "chain_id": policy.chain_id, "nonce": secrets.token_hex(16), **particulars}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def give(settings: CoordinatorSettings, path: str, name: str, order: Act | StartRound, out_file: Path | None) -> None:
    """Sign and send an order and print the id of what it is about; or write it down for others to sign."""
    if out_file:
        write_order(out_file, path, name, order, order.typed_data())
        end = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(order.expires))
        out.print(f"{out_file} holds the order; its typed_data is what the wallets sign, until {end}.", highlight=False)
        out.print(f"Then: coterie-coordinator send {out_file} --signature 0x…", highlight=False)
        return
    answer = call(settings, "POST", path, {name: order.model_dump(mode="json"), "signature": signed_here(order)})
    out.print(order.subject if isinstance(order, Act) else answer["round_id"], highlight=False)


def _give_admins(
    config: Path, admin: str | None, out_file: Path | None, kind: type[AdminAct], path: str, **particulars: object
) -> None:
    settings = CoordinatorSettings.load(config)
    actor, expires = admin_and_end(admin, out_file)
    order = order_of(kind, settings, admin=actor, expires=expires, **particulars)
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")
    give(settings, path, name, order, out_file)


def _seconds(text: str) -> int:
    """Unix seconds. Raises BadInput when it is no date."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text} is no date.", "Write it as 2026-12-01T18:00Z.") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
