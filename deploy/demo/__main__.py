"""``python -m deploy.demo``: a whole DAO on this machine, from the first token to the second release."""

import argparse
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.table import Table

from bases import EMBEDDED_BASE
from deploy.demo.measure import BASE, COLLECTIVE, Measured
from deploy.demo.processes import DemoFailed, tail
from deploy.demo.story import Release, Story, Traffic
from deploy.demo.terminal import Terminal, amount
from protocol.errors import CoterieError


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell the story; 0 when all of it came true, 1 when not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the story is told; else stay up until Ctrl-C")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the sheet and everything else")
    parser.add_argument("--base", type=Path, default=EMBEDDED_BASE, help="another base model, a diffusers folder")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    terminal = Terminal()
    try:
        _tell(terminal, options.out.absolute(), options.base.absolute(), options.once)
    except KeyboardInterrupt:
        terminal.say("Stopped; nothing is left running.")
        return 130
    except CoterieError as error:
        _explain(terminal, error)
        return 1
    return 0


def _tell(terminal: Terminal, out: Path, base: Path, once: bool) -> None:
    folder = out / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Story(folder, base, terminal) as story:
        with terminal.step("A chain with real Nouns", "anvil runs here; four members are given Nouns to own."):
            story.found()
        with terminal.step("The coordinator", "Flask under gunicorn, SQLite, and Flower's SuperLink with TLS."):
            url = story.start_coordinator()
        with terminal.step(
            "Members join",
            "Each signs in with its wallet, sees what the DAO's policy says of every token, and grants the rest.",
        ):
            story.join()
        with terminal.step(
            "One round",
            "The admin signs an order. Every member trains on its own Nouns; the coordinator merges what they learned.",
        ):
            first = story.train()
        with terminal.step("What left the members' machines", "Adapters and their statistics; never an image."):
            traffic = story.account()
        with terminal.step("Anyone pulls the model", "Fetched by its CID, every block checked, loaded by diffusers."):
            measuring = story.begin_measuring(story.pull(first, "first"))
        with terminal.step(
            "A sale",
            "dan sells a token whose licence ends with the sale: his contribution goes, the model is merged again.",
        ):
            second = story.sell()
            story.pull(second, "second")
        with terminal.step(
            "How good is it?", "Loss on pictures nobody trained on, and pictures to look at; begun before the sale."
        ):
            measured = measuring.result()
            sheet = measured.sheet.replace(out / "sheet.png")
        if not once:
            terminal.say(f"The DAO's public page is up until Ctrl-C: {url}", "bold")
        _sum_up(terminal, measured, traffic, (first, second), sheet)
        if not once:
            _stay_up(story)


def _sum_up(
    terminal: Terminal,
    measured: Measured,
    traffic: dict[str, Traffic],
    releases: tuple[Release, Release],
    sheet: Path,
) -> None:
    """The last lines: both CIDs, the table, the sheet's path."""
    first, second = releases
    terminal.console.print()
    terminal.say(f"first release   {first.cid}", "bold green")
    terminal.say(f"second release  {second.cid}   (without what dan sold)", "bold green")
    terminal.show(_table(measured))
    for name, one in traffic.items():
        terminal.say(f"{name} sent {amount(sum(one.sent.values()))}; images sent: 0 of {amount(one.images)}")
    seconds = terminal.seconds
    terminal.say(
        f"Seconds: {', '.join(f'{title} {s:.0f}' for title, s in seconds.items())}; {sum(seconds.values()):.0f} in all"
    )
    terminal.say(f"The same prompts and seeds, base beside collective: {sheet}", "bold")


def _table(measured: Measured) -> Table:
    table = Table(title="Denoising loss (lower is better)", title_justify="left")
    for heading in ("model", "held-out images", "everyone's images", "the base's own heads", "heads recognised"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, losses in measured.losses.items():
        recognised = f"{measured.recognised[name]:.0%}" if name in measured.recognised else ""
        style = "bold" if name in (BASE, COLLECTIVE) else ""
        numbers = (f"{loss:.3f}" for loss in (losses.held_out, losses.everyone, losses.known))
        table.add_row(name, *numbers, recognised, style=style)
    return table


def _stay_up(story: Story) -> None:
    """Until Ctrl-C, which is how this ends well."""
    with contextlib.suppress(KeyboardInterrupt):
        story.processes.wait_for("Ctrl-C", lambda: None, float("inf"))


def _explain(terminal: Terminal, error: CoterieError) -> None:
    """What went wrong, and the ends of the logs that tell why."""
    for log in error.logs if isinstance(error, DemoFailed) else ():
        terminal.say(f"The end of {log}:", "bold")
        terminal.console.print(tail(log), markup=False, style="dim", soft_wrap=True)
    terminal.say(f"The demo failed: {error}", "bold red")


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
