"""The indexer's key: where it comes from, and where it never shows."""

from pathlib import Path

import pytest

from coordinator.config import CoordinatorSettings
from coordinator.wiring import sources_of

KEY = "the-secret-key"


def settings(tmp_path: Path, more: str = "") -> CoordinatorSettings:
    file = tmp_path / "coordinator.toml"
    file.write_text(f'rpc_url = "http://127.0.0.1:9"\npolicy = "p"\nbase = "b"\nbase_name = "none"\n{more}\n')
    return CoordinatorSettings.load(file)


def test_the_key_comes_from_the_environment_and_is_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_COORDINATOR_INDEXER_KEY", KEY)
    told = settings(tmp_path, 'indexer_url = "https://eth-mainnet.g.alchemy.com"')
    sources = sources_of(told)
    assert sources.indexer and sources.indexer.host == "https://eth-mainnet.g.alchemy.com"
    for shown in (repr(told), str(told), repr(sources), told.model_dump_json()):
        assert KEY not in shown


@pytest.mark.parametrize("more", ["", 'indexer_url = "https://eth-mainnet.g.alchemy.com"', 'indexer_key = "k"'])
def test_without_address_and_key_there_is_no_indexer(tmp_path: Path, more: str) -> None:
    assert sources_of(settings(tmp_path, more)).indexer is None
