"""What left this machine: one JSON line for every thing that was handed to the coordinator, for the member to read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from protocol.canonical import canonical, sha256

FILE = "sent.jsonl"


def note_sent(home: Path, subject: str, parts: Mapping[str, bytes | str]) -> None:
    """Add a line for each part: when, about which round or grant, what, how many bytes, their SHA-256."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with (home / FILE).open("ab") as file:
        for what, part in parts.items():
            data = part.encode() if isinstance(part, str) else part
            line = {"at": now, "about": subject, "what": what, "bytes": len(data), "sha256": sha256(data)}
            file.write(canonical(line) + b"\n")
