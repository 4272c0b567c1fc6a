"""Turns at a file: nobody is overtaken for long, by a thread or by another process, and nobody waits for the dead."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from coordinator.turns import Turns
from protocol.errors import Busy

HOLDS = """
import sys
from coordinator.turns import Turns
leave = Turns(sys.argv[1]).take(5)
print("has it", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "coordinator.sqlite")


def test_one_writes_at_a_time_and_whoever_waits_too_long_is_told_so(file: str) -> None:
    here, elsewhere = Turns(file), Turns(file)
    leave = here.take(1)
    for turns in (here, elsewhere):
        with pytest.raises(Busy, match="too long to wait"):
            turns.take(0.02)
    leave()
    elsewhere.take(0)()
    here.take(0)()


def test_a_process_that_takes_turn_after_turn_lets_another_between(file: str) -> None:
    greedy, stop, taken = Turns(file), threading.Event(), []

    def take_all() -> None:
        while not stop.is_set():
            leave = greedy.take(5)
            taken.append(1)
            time.sleep(0.002)
            leave()

    threads = [threading.Thread(target=take_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    other, between = Turns(file), []
    try:
        for _ in range(20):
            before = len(taken)
            leave = other.take(5)
            between.append(len(taken) - before)
            leave()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sorted(between)[10] <= 3, "of the other's turns, those that it came too late for"


def test_the_turn_of_a_process_ends_with_it(file: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "has it\n"
        with pytest.raises(Busy):
            Turns(file).take(0.01)
        holder.kill()
    Turns(file).take(1)()
