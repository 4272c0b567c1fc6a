"""Pictures are opened in another process, so that a file made to harm costs a token and not the member's machine.

The process (``python -m client.collection.opener``) has little memory, counted CPU seconds, no environment, on most
Linux no network, writes no files, and is replaced when it dies. Vetoes are looked for there too, in the bytes as they
came. It serves one request after the other over its standard input and output: a line of JSON, then bytes.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, Any

import numpy as np

from client.collection.example import Picture
from client.collection.formats import LEFT_OUT, kind_of
from client.collection.picture import open_picture
from client.collection.vetoes import require_no_veto
from protocol.errors import BadInput, CoterieError, NotAllowed

_ROOT = Path(__file__).parents[2]
_MAX_HEADER = 10_000
_NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000
"""``CLONE_NEWUSER`` and ``CLONE_NEWNET`` of Linux's sched.h."""


@dataclass(frozen=True)
class Limits:
    """What one picture may cost. ``seconds`` are the CPU's; by the clock it may be ``patience`` times as long."""

    megabytes: int = 2048
    seconds: int = 20
    patience: int = 6


class PictureOpener:
    """``open_picture`` behind limits. A context manager: the process ends with it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "PictureOpener":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def open(self, data: bytes, size: int, background: str = "") -> Picture:
        """As ``open_picture``, of a picture that carries no veto.

        Raises:
            BadInput: also where the picture takes more time or memory than it may, or breaks the decoder.
            NotAllowed: it forbids training.
        """
        process = self._running()
        out_of_time = Timer(self._limits.seconds * self._limits.patience, process.kill)
        out_of_time.start()
        try:
            answer, body = _ask(process, {"size": size, "background": background}, data)
        except (OSError, EOFError, ValueError) as error:
            raise self._why(process, timed_out=not out_of_time.is_alive()) from error
        finally:
            out_of_time.cancel()
        if "shape" not in answer:
            refused = NotAllowed if answer.get("code") == NotAllowed.code else BadInput
            raise refused(str(answer.get("message")), str(answer.get("hint")))
        return np.frombuffer(body, dtype=np.uint8).reshape(*answer["shape"], 3).copy()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            limits = self._limits
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(limits.megabytes), str(limits.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        return self._process

    def _why(self, process: subprocess.Popen[bytes], *, timed_out: bool) -> BadInput:
        self._end()
        if timed_out or process.returncode == -signal.SIGXCPU:
            return BadInput(f"The picture takes more than {self._limits.seconds} s to be drawn.", LEFT_OUT)
        most = self._limits.megabytes
        return BadInput(f"The picture breaks the program that draws it, or takes more than {most} MB.", LEFT_OUT)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        with contextlib.suppress(OSError):  # what could not be written is not wanted any more
            self._process.communicate()
        self._process = None


def _ask(process: subprocess.Popen[bytes], request: Mapping[str, Any], data: bytes) -> tuple[Any, bytes]:
    assert process.stdin
    assert process.stdout
    _write(process.stdin, request, data)
    return _read(process.stdout)


def _write(stream: IO[bytes], header: Mapping[str, Any], body: bytes) -> None:
    stream.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n" + body)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[Any, bytes]:
    line = stream.readline(_MAX_HEADER)
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    body = stream.read(header["bytes"])
    if len(body) != header["bytes"]:
        raise EOFError
    return header, body


def _environment() -> dict[str, str]:
    """No secrets, and one thread: each more would reserve memory that counts."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _serve(megabytes: int, seconds: int) -> None:
    """In the limited process: answer until the other side closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer
    for what, most in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # macOS has no limit on address space
            resource.setrlimit(what, (most, most))
    _leave_the_network()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for request, data in _requests(sys.stdin.buffer):
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, hard))
        _write(answers, *_answer(request, data, megabytes))


def _leave_the_network() -> None:
    """Into a network namespace where nobody is, if the kernel lets anyone do that, as most Linux does."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).unshare(_NEW_USER_AND_NETWORK)


def _requests(stream: IO[bytes]) -> Iterator[tuple[Any, bytes]]:
    with contextlib.suppress(EOFError):
        while True:
            yield _read(stream)


def _answer(request: Mapping[str, Any], data: bytes, megabytes: int) -> tuple[dict[str, Any], bytes]:
    try:
        require_no_veto(data, kind_of(data))
        picture = open_picture(data, request["size"], request["background"])
    except CoterieError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}, b""
    except MemoryError:
        return {"message": f"The picture takes more than {megabytes} MB to be drawn.", "hint": LEFT_OUT}, b""
    except BaseException:  # a panic in resvg is no Exception
        return {"message": "The picture breaks the program that draws it.", "hint": LEFT_OUT}, b""
    return {"shape": picture.shape[:2]}, picture.tobytes()


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:3]))
