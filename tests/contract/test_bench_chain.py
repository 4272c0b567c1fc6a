"""The chain's bench times ways that give the same right answers, and says what it was held to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_bench_prints_every_way_and_a_line_for_every_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.chain", "--tokens", "600", "--repeat", "1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "timed on 500 and scaled" in done.stdout
    bars = re.findall(r"^bar ([\w-]+) ([\d.e+-]+) ([\d.]+) (met|missed)$", done.stdout, re.M)
    assert [name for name, *_ in bars] == [
        "chain-confirm-600-seconds",
        "chain-confirm-600-units-seconds",
        "chain-confirm-faster-than-web3",
        "chain-confirm-over-multicall3",
        "chain-logs-faster-than-web3",
    ]
    assert float(bars[0][1]) < float(bars[0][2])
