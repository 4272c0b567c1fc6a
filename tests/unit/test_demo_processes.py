"""What the demo starts is watched while it waits, and ended however the demo ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.demo.processes import DemoFailed, Processes, environment, run, tail

SLEEPS = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(60)"]
FAILS = [sys.executable, "-c", "raise SystemExit('out of paint')"]
# A program that starts another one, as the coordinator and the members' clients do.
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(c.pid, flush=True); c.wait()",
]


def test_everything_is_ended_when_the_demo_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Processes() as processes:
        processes.start("a program", PARENT, environment(), [tmp_path / "log"])
        child = processes.wait_for("child", lambda: _number(tmp_path / "log"), 20)
        assert _runs(child)
        raise RuntimeError
    assert all(_ends(pid) for pid in [*processes.pids, child])


def test_a_program_that_ends_too_early_is_named_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Processes() as processes:
        processes.start("ada's client", FAILS, environment(), [log])
        with pytest.raises(DemoFailed, match="ada's client ended while the demo waited for grants") as failure:
            processes.wait_for("grants", lambda: None, 20)
    assert failure.value.logs == (log,)
    assert "out of paint" in tail(log)


def test_waiting_ends_at_its_limit(tmp_path: Path) -> None:
    with Processes() as processes:
        processes.start("a program", SLEEPS, environment(), [tmp_path / "log"])
        with pytest.raises(DemoFailed, match="still no release"):
            processes.wait_for("release", lambda: None, 0.3)


def test_programs_end_when_the_demo_is_killed_outright(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux's kernel tells a child that its parent was killed")
    script = (
        "import sys; from pathlib import Path; from deploy.demo.processes import Processes, environment\n"
        "with Processes() as all:\n"
        f"    all.start('x', {SLEEPS!r}, environment(), [Path(sys.argv[1])]); print(all.pids[0], flush=True); input()"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    demo = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert demo.stdout
    pid = int(demo.stdout.readline())
    assert _runs(pid)
    demo.kill()
    demo.communicate()
    assert _ends(pid)


def test_a_persons_own_settings_do_not_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_HOME", "/home/me/.coterie")
    done = run([sys.executable, "-c", "import os; print(os.environ.get('COTERIE_HOME'))"], {}, 20)
    assert done.stdout.strip() == "None"


def _number(log: Path) -> int | None:
    text = log.read_text().strip()
    return int(text) if text.isdigit() else None


def _ends(pid: int) -> bool:
    """Whether the process is gone in a moment: what is killed takes the kernel a little."""
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
