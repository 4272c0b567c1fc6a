"""``coterie-coordinator base``: what a base's folder may hold beside the base."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bases.shipped import shipped, write_shipped
from coordinator.config import CoordinatorSettings
from protocol.base import BASE_STATISTICS
from protocol.errors import BadInput

Config = Annotated[Path, typer.Option("--config", help="The coordinator's settings, TOML.")]
base_app = typer.Typer(help="Prepare the base that rounds train on.", no_args_is_help=True)
out = Console()


@base_app.command("statistics")
def make_statistics(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures of the base's own data, a .txt beside each.")],
    config: Config = Path("coordinator.toml"),
    rank: Annotated[int | None, typer.Option(min=1, help="Of each sketch: more is finer, and a larger file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """Measure what the base's layers read on its own data: G₀, which μ holds the collective to. Into its folder."""
    try:
        from bases.loading import load_base
        from bases.own_data import RANK, measure_own, read_own
    except ImportError as error:
        raise BadInput("Measuring a base takes torch, which is not installed.", "Install coterie[samples].") from error
    settings = CoordinatorSettings.load(config)
    base = load_base(settings.base)
    data = read_own(pictures, base.size)
    with out.status(f"0 of {len(data)} pictures") as status:
        own = measure_own(
            base, data, rank or RANK, seed, lambda done, count: status.update(f"{done} of {count} pictures")
        )
    file = write_shipped(settings.base, settings.base_hash, own, len(data))
    size = file.stat().st_size / 1e6
    out.print(f"{file}: G₀ of {len(data)} pictures, {size:.1f} MB.", highlight=False, soft_wrap=True)


def require_usable(settings: CoordinatorSettings) -> None:
    """Raises BadInput: the base came with statistics that no merge could use. Told before anybody trains."""
    if (settings.base / BASE_STATISTICS).exists():
        shipped(settings.base, settings.base_hash)
