"""Front-end files of others lie here unchanged, and pages name what they are to be."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "coordinator/web"
VENDOR = WEB / "static/vendor"
NAMED = dict(re.findall(r"^\| `([\w.-]+\.js)` .*`(sha384-[\w+/=]+)` \|$", (VENDOR / "README.md").read_text(), re.M))


def test_every_vendored_script_is_listed_with_its_origin() -> None:
    assert set(NAMED) == {path.name for path in VENDOR.glob("*.js")}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_vendored_script_is_what_its_package_held_and_what_pages_expect(name: str) -> None:
    sum_ = base64.b64encode(hashlib.sha384((VENDOR / name).read_bytes()).digest()).decode()
    assert NAMED[name] == f"sha384-{sum_}"
    assert f'integrity="{NAMED[name]}"' in (WEB / "templates/base.html").read_text()
