"""What may never be in the repository, whoever adds it."""

import re
import subprocess
from pathlib import Path

import pytest
from eth_account import Account

from bases import EMBEDDED_BASE
from protocol.base import base_hash

ROOT = Path(__file__).parents[2]
MNEMONIC = "test test test test test test test test test test test junk"
HAVE_KEYS = ("deploy/demo/", "deploy/devchain/", "tests/")
# Put together here, so that this file does not name them itself.
REGISTRY_HOSTS = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com", "debian" + ".org"]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every text file that git tracks or would add, by its path."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    files = {name: ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    contents = {name: path.read_bytes() for name, path in files.items()}
    return {name: data.decode(errors="replace") for name, data in contents.items() if b"\0" not in data[:8000]}


def test_no_private_key_is_in_the_repository_but_anvils_in_demo_and_tests(texts: dict[str, str]) -> None:
    Account.enable_unaudited_hdwallet_features()
    path = "m/44'/60'/0'/0/{}"
    anvils = {Account.from_mnemonic(MNEMONIC, account_path=path.format(i)).key.hex() for i in range(10)}
    harmless = {"0" * 64, base_hash(EMBEDDED_BASE)}
    for name, text in texts.items():
        assert not re.search("-----BEGIN [A-Z ]*PRIVATE KEY-----\\s+[A-Za-z0-9+/]{40}", text), f"{name} holds a PEM key"
        allowed = harmless | (anvils if name.startswith(HAVE_KEYS) else set())
        keys = {key.lower() for key in re.findall(r"(?<![0-9a-fA-F])(?:0x)?([0-9a-fA-F]{64})(?![0-9a-fA-F])", text)}
        assert keys <= allowed, f"{name} holds 32 bytes in hex that could be a private key: {sorted(keys - allowed)[0]}"


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    named = [(name, host) for name, text in texts.items() for host in REGISTRY_HOSTS if host in text]
    assert not named
