"""TDM Reservation Protocol (W3C community group): what a web server says of text and data mining. Pure.

In a header with each file, and for the whole site in ``/.well-known/tdmrep.json``. Either can reserve, neither is taken
for a permission.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from client.collection.text import one_line

WELL_KNOWN = "/.well-known/tdmrep.json"
MAX_RULES = 10_000
_RESERVATION, _POLICY = "tdm-reservation", "tdm-policy"


class Rule(NamedTuple):
    """One entry of ``tdmrep.json``."""

    location: str
    """A path as robots.txt has it: a beginning, ``*`` for anything, ``$`` for the end (RFC 9309, section 2.2.3)."""
    reserved: bool
    policy: str

    def covers(self, path: str) -> bool:
        """Whether the rule is about that path."""
        anchored = self.location.endswith("$")
        parts = self.location.removesuffix("$").split("*")
        # Leftmost matches are enough for a pattern of plain parts, and take linear time.
        end = 0
        for index, part in enumerate(parts):
            last = anchored and index == len(parts) - 1
            at = (path.rfind(part) if last else path.find(part, end)) if part or last else end
            if at < end or (index == 0 and at):
                return False
            end = at + len(part)
        return not anchored or end == len(path)


def reserved_by_header(headers: Mapping[str, str]) -> str:
    """The reason, or nothing; ``headers`` by name in lower case."""
    said = headers.get(_RESERVATION, "0").strip()
    return "" if said in ("", "0") else _reason(f"the header {_RESERVATION}", headers.get(_POLICY, ""))


def reserved_by_site(rules: tuple[Rule, ...], path: str) -> str:
    """The reason, or nothing.

    Both the first rule and the longest must leave it free: readers of the draft go by the one or the other.
    """
    covering = [rule for rule in rules if rule.covers(path)]
    if not covering:
        return ""
    for rule in (covering[0], max(covering, key=lambda rule: len(rule.location))):
        if rule.reserved:
            return _reason(WELL_KNOWN, rule.policy)
    return ""


def site_rules(document: bytes) -> tuple[Rule, ...]:
    """Of a ``tdmrep.json``; what is none, like the page that many servers have for everything, has no rules."""
    try:
        listed = json.loads(document)
    except (ValueError, RecursionError):
        return ()
    return tuple(_rules(listed))[:MAX_RULES] if isinstance(listed, list) else ()


def _rules(listed: list[Any]) -> Iterator[Rule]:
    for one in listed:
        if isinstance(one, dict) and isinstance(one.get("location"), str):
            said = one.get(_RESERVATION, 0)
            reserved = str(said).strip() not in ("0", "0.0", "False", "None", "")
            # A run of stars says no more than one.
            yield Rule(re.sub(r"\*+", "*", one["location"][:2000]), reserved, str(one.get(_POLICY) or ""))


def _reason(where: str, policy: str) -> str:
    terms = f"; its terms are at {one_line(policy, 200)}" if policy else ""
    return f"{where} reserves it from text and data mining{terms}"
