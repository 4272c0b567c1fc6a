"""The sample sheet: the same prompts and seeds, base above, collective below.

It is drawn in a process of its own, so that torch stays out of the coordinator and a crash there is no
crash here. The release is loaded as anyone would load it, by ``load_lora_weights``.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from protocol.errors import BadInput, Unreachable

SAMPLES = "samples.png"
STEPS = 20
GUIDANCE = 3.0
CELL = 128
PROMPTS = 8
TIMEOUT_S = 600


def draw_samples(base: Path, release: Path, prompts: tuple[str, ...], seed: int) -> None:
    """Write ``samples.png`` into the release's folder.

    Raises:
        Unreachable: the drawing process failed; its last words are in the message.
    """
    order = {"base": str(base), "release": str(release), "prompts": prompts, "seed": seed}
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.releases.samples"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise Unreachable(
            f"The sample sheet could not be drawn: {last[0]}", "Install coterie[samples] on the coordinator."
        )


def prompts_of(captions: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """What a sheet is drawn from: captions that the collective was trained on, the members taking turns."""
    members = list(captions)
    longest = max(map(len, members), default=0)
    turns = [member[i] for i in range(longest) for member in members if i < len(member)]
    return tuple(dict.fromkeys(turns))[:PROMPTS]


def draw_sheet(base: Path, release: Path, prompts: Sequence[str], seed: int) -> None:
    """In the drawing process: base above, release below, into the release's folder."""
    import numpy as np
    import torch
    from PIL import Image

    from bases.loading import load_base

    if not prompts:
        raise BadInput("There is no caption to draw.")
    model = load_base(base)
    text = model.embed(prompts)

    def row() -> Image.Image:
        generator = torch.Generator(model.device).manual_seed(seed)
        pictures = model.pictures(model.draw_latents(text, STEPS, generator, guidance=GUIDANCE))
        strip = Image.fromarray(np.concatenate(list(pictures), 1))
        factor = max(1, CELL // strip.height)
        return strip.resize((strip.width * factor, strip.height * factor), Image.Resampling.NEAREST)

    above = row()
    model.pipeline.load_lora_weights(release, weight_name="pytorch_lora_weights.safetensors", local_files_only=True)
    below = row()
    sheet = Image.new("RGB", (above.width, above.height + below.height))
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    sheet.save(release / SAMPLES)


if __name__ == "__main__":
    order = json.load(sys.stdin)
    draw_sheet(Path(order["base"]), Path(order["release"]), order["prompts"], order["seed"])
