"""The story reads well where there is no terminal, too."""

import io

from rich.console import Console

from client.progress import Update
from deploy.demo.terminal import Terminal, amount


def test_a_step_is_numbered_said_in_plain_words_and_timed() -> None:
    terminal, text = _terminal()
    with terminal.step("A sale", "dan sells a token."):
        terminal.say("CID [b]afy" + "x" * 200)
    assert "1 · A sale" in text.getvalue()
    assert "dan sells a token." in text.getvalue()
    assert "[b]afy" + "x" * 200 + "\n" in text.getvalue(), "a CID is never broken, nor read as markup"
    assert list(terminal.seconds) == ["A sale"]


def test_without_a_terminal_every_stage_is_one_line_when_it_is_done() -> None:
    terminal, text = _terminal()
    with terminal.bars(["ada"]) as show:
        show("ada", Update(round_id="r", stage="training", step=1, steps=2, loss=0.5, seconds=1))
        show("ada", Update(round_id="r", stage="training", step=2, steps=2, loss=0.25, seconds=2))
    assert text.getvalue().strip() == "ada: training done, 2 of 2 in 2.0 s, loss 0.250"


def test_on_a_terminal_every_member_has_a_bar() -> None:
    text = io.StringIO()
    terminal = Terminal(Console(file=text, force_terminal=True, width=100))
    with terminal.bars(["ada", "ben"]) as show:
        show("ada", Update(round_id="r", stage="training", step=1, steps=2, loss=0.5, seconds=1))
        show("ada", Update(round_id="r", stage="statistics", step=1, steps=28, seconds=1))
    assert "statistics" in text.getvalue()
    assert "1/28" in text.getvalue()
    assert "ben" in text.getvalue()


def test_amounts_are_read_as_a_person_says_them() -> None:
    assert [amount(n) for n in (999, 412_300, 1_460_000)] == ["999 B", "412.3 kB", "1.46 MB"]


def _terminal() -> tuple[Terminal, io.StringIO]:
    text = io.StringIO()
    return Terminal(Console(file=text)), text
