"""``coterie sample``: what a published model draws, beside the base alone: a grid of prompts and seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.adapter_file import RELEASED
from client.config import load_settings
from client.options import Home
from client.pull.command import Cars, Gateways, IpfsApi, bring, read_manifest
from protocol.base import base_hash
from protocol.errors import BadInput, NotAllowed

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_CELL = 128
"""Pictures of tiny bases are shown larger, pixel by pixel."""

console = Console()


def sample(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A CID, a URL, latest, or a pulled release's folder.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; a row each.")],
    pictures: Annotated[int, typer.Option(min=1, max=16, help="Pictures of each prompt, a column each.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 30,
    guidance: Annotated[float, typer.Option(min=1, max=30, help="How closely to keep to the prompt.")] = 3.0,
    compare: Annotated[bool, typer.Option("--compare", help="Draw the base alone too, above each row.")] = False,
    out: Annotated[Path, typer.Option(help="The PNG to write; nothing is written over.")] = Path("samples.png"),
    gateway: Gateways = None,
    cars: Cars = None,
    ipfs_api: IpfsApi = None,
    home: Home = None,
) -> None:
    """Draw with a published model on your own base: a grid as a PNG."""
    if out.exists():
        raise BadInput(f"{out} is already there.", "Name another file with --out, or move that one away.")
    settings = load_settings(home, ipfs_api=ipfs_api)
    folder = Path(model) if Path(model).is_dir() else bring(model, settings, gateway or (), cars)
    manifest = read_manifest(folder)
    if base_hash(settings.base) != manifest.base.hash:
        raise NotAllowed(
            f"The model is for {manifest.base.name}, and the base in {settings.base} is another one.",
            "Put that base's folder, owner/name@commit or ipfs://CID into COTERIE_BASE or member.toml.",
        )
    with console.status("Drawing …"):
        grid(settings.base, folder, prompts, pictures, seed, steps, guidance, compare).save(out, format="PNG")
    console.print(f"{out}: {len(prompts)} × {pictures} pictures", highlight=False, soft_wrap=True)


def grid(
    base: Path,
    release: Path,
    prompts: Sequence[str],
    pictures: int,
    seed: int,
    steps: int = 30,
    guidance: float = 3.0,
    compare: bool = False,
) -> "Image":
    """A row of ``pictures`` pictures for each prompt, with ``compare`` the base's own above it.

    Every row starts from the same noise. The release is loaded as anyone would load it.
    """
    import numpy as np
    import torch
    from PIL import Image

    from bases.loading import load_base

    model = load_base(base)

    def row(prompt: str) -> "Image.Image":
        generator = torch.Generator(model.device).manual_seed(seed)
        text = model.embed([prompt] * pictures)
        drawn = model.pictures(model.draw_latents(text, steps, generator, guidance=guidance))
        return Image.fromarray(np.concatenate(list(drawn), 1))

    plain = [row(prompt) for prompt in prompts] if compare else []
    model.pipeline.load_lora_weights(release, weight_name=RELEASED, local_files_only=True)
    drawn = [row(prompt) for prompt in prompts]
    rows = [one for pair in zip(plain, drawn, strict=True) for one in pair] if compare else drawn
    sheet = Image.new("RGB", (rows[0].width, sum(one.height for one in rows)))
    for index, one in enumerate(rows):
        sheet.paste(one, (0, index * one.height))
    factor = max(1, MIN_CELL // rows[0].height)
    return sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)
