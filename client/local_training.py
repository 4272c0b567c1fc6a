"""``coterie train``: the member's own adapter, outside of any round, from tokens that were granted once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from client.bars import Bars
from client.config import MemberSettings, load_settings
from client.options import Home, RpcUrl
from client.progress import ProgressTail
from client.wallet.grant import StoredGrant, stored_grants
from protocol.adapter import dump_adapter
from protocol.base import base_hash
from protocol.errors import BadInput
from protocol.grant import RoundPlan

if TYPE_CHECKING:
    from client.training.engine import TrainingProgress
    from client.training.estimate import Estimate

FOLDER = "own"
ADAPTER = "pytorch_lora_weights.safetensors"

console = Console()


def train(
    grant: Annotated[str, typer.Argument(metavar="GRANT", help="Which grant's tokens; none is the newest.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many images, how long, how much memory and disk.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Steps of training.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the first step after the warm-up.")] = None,
    home: Home = None,
    rpc: RpcUrl = None,
) -> None:
    """Train your own adapter on your granted NFTs, without any DAO: nothing is sent anywhere.

    What was killed goes on where it was. How this machine trains is set in member.toml, under [training].
    """
    settings = load_settings(home, rpc_url=rpc)
    plan = _plan({"steps": steps, "batch": batch, "rank": rank, "learning_rate": learning_rate})
    granted = _granted(settings, grant)
    # Torch takes seconds to import; the checks above should not.
    from client.node.work import MemberWork, Progress, full_disk_told, machine_of
    from client.training.cache import replace_durably
    from client.training.checkpoint import drop_checkpoint

    work = MemberWork(settings)
    task, dataset = work.own_dataset(granted, plan)
    machine = machine_of(settings, task.base_hash)
    if dry_run:
        console.print(_shown(machine.estimate(dataset.examples, dataset.held_out, plan)))
        return
    folder = settings.home / FOLDER / granted.grant.grant_id
    with full_disk_told(settings.home):
        dataset.save(folder)
    progress, tail = Progress(settings.home, task.round_id), ProgressTail(settings.home)
    with Bars(console) as bars:

        def report(now: "TrainingProgress") -> None:
            progress.training(now)
            for update in tail.new():
                bars.show(update)

        trained = machine.train(dataset.examples, dataset.held_out, plan, folder, report)
    with full_disk_told(settings.home):
        replace_durably(folder / ADAPTER, dump_adapter(trained.adapter))
    drop_checkpoint(folder)
    console.print(f"[green]Trained.[/] {folder / ADAPTER}", highlight=False, soft_wrap=True)


def _plan(asked: Mapping[str, float | None]) -> RoundPlan:
    """The defaults but for what was asked for; steps are those very ones, however many pictures there are."""
    changes = {name: value for name, value in asked.items() if value is not None}
    if "steps" in changes:
        changes["growth_limit"] = 1.0
    try:
        return RoundPlan.model_validate(changes)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise BadInput(f"--{name} is wrong: {first['msg']}.", "Choose another value.") from error


def _granted(settings: MemberSettings, wanted: str) -> StoredGrant:
    """The grant that is named, or the newest on the base of this machine."""
    base = base_hash(settings.base)
    for stored in stored_grants(settings.home):
        if stored.grant.base_hash == base and stored.grant.grant_id.startswith(wanted):
            return stored
    raise BadInput(
        f"There is no grant{f' {wanted}' if wanted else ''} in {settings.home} for the base in {settings.base}.",
        "Join a DAO first, or set `base` to the base that you granted on.",
    )


def _shown(told: "Estimate") -> Table:
    table = Table(show_header=False, title="If you train now")
    fewer = f", {told.held_out} more are held out" if told.held_out else ""
    table.add_row("images", f"{told.images}{fewer}")
    table.add_row("steps", str(told.steps))
    table.add_row("time", f"{told.seconds / 60:.1f} minutes of training")
    table.add_row("memory", f"{told.memory_bytes / 1e9:.1f} GB")
    table.add_row("disk", f"{told.disk_bytes / 1e6:.0f} MB")
    where = "on the GPU" if told.device == "cuda" else f"with {told.threads} CPU threads"
    table.add_row("how", f"{told.precision} {where}")
    return table
