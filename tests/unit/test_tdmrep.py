"""Which paths a site's tdmrep.json reserves."""

import json
import time

import pytest

from client.media.tdmrep import Rule, reserved_by_header, reserved_by_site, site_rules


def rules(*listed: tuple[str, object]) -> tuple[Rule, ...]:
    return site_rules(json.dumps([{"location": where, "tdm-reservation": said} for where, said in listed]).encode())


@pytest.mark.parametrize(
    ("location", "path", "covered"),
    [
        ("/", "/a/b.png", True),
        ("/a", "/a/b.png", True),
        ("/b", "/a/b.png", False),
        ("*.png", "/a/b.png", True),
        ("/*.png$", "/a/b.png", True),
        ("/*.png$", "/a/b.png.txt", False),
        ("/a/*/c", "/a/b/c/d", True),
        ("/a/*/c$", "/a/b/c/d", False),
        ("/a$", "/a", True),
        ("/a$", "/a/a", False),
        ("/aa*a$", "/aa", False),
        ("/**/b", "/a/b", True),
        ("$", "/", False),
    ],
)
def test_a_location_covers_paths_as_robots_txt_has_it(location: str, path: str, covered: bool) -> None:
    (rule,) = rules((location, 1))
    assert rule.covers(path) == covered
    assert bool(reserved_by_site((rule,), path)) == covered


def test_both_the_first_and_the_longest_rule_must_leave_it_free() -> None:
    assert reserved_by_site(rules(("/", 1), ("/free/", 0)), "/free/1")
    assert reserved_by_site(rules(("/", 0), ("/kept/", 1)), "/kept/1")
    assert not reserved_by_site(rules(("/free/", 0), ("/", 1)), "/free/1")
    assert reserved_by_site(rules(("/free/", 0), ("/", 1)), "/other")


@pytest.mark.parametrize("said", [1, "1", True, 2, "yes", [1]])
def test_whatever_is_not_zero_reserves(said: object) -> None:
    assert reserved_by_site(rules(("/", said)), "/1")


@pytest.mark.parametrize("said", [0, "0", False, None, ""])
def test_zero_reserves_nothing(said: object) -> None:
    assert not reserved_by_site(rules(("/", said)), "/1")


@pytest.mark.parametrize("document", [b"", b"{}", b"[" * 100_000, b"\xff", b'["x", 1, {}, {"location": 1}]', b"<html>"])
def test_what_is_no_such_document_has_no_rules(document: bytes) -> None:
    assert site_rules(document) == ()


def test_a_hostile_pattern_takes_no_time() -> None:
    (rule,) = rules(("/" + "a*" * 900 + "b$", 1))
    began = time.monotonic()
    assert not rule.covers("/" + "a" * 2000)
    assert time.monotonic() - began < 1


def test_a_header_reserves_and_names_its_terms_on_one_line() -> None:
    reason = reserved_by_header({"tdm-reservation": "1", "tdm-policy": "https://example.com/\x1b[31mterms"})
    assert reason.endswith("its terms are at https://example.com/ [31mterms")
    assert not reserved_by_header({})
    assert not reserved_by_header({"tdm-reservation": "0"})
