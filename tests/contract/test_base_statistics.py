"""``coterie-coordinator base statistics``: G₀ of any base, from a folder of pictures with captions."""

from pathlib import Path

import numpy as np
import pytest
from small_bases import build
from typer.testing import CliRunner, Result

pytest.importorskip("torch")

from PIL import Image

from bases.shipped import shipped
from coordinator.cli import app
from coordinator.rounds.checks import adapted_layers
from protocol.adapter import input_group, load_statistics
from protocol.base import base_hash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with a base of random weights, and pictures of no use but for their number."""
    folder = tmp_path_factory.mktemp("dao")
    build("SD 1.x, epsilon", folder / "base")
    (folder / "coordinator.toml").write_text(
        'rpc_url = "http://127.0.0.1:9"\npolicy = "policy.json"\nbase = "base"\nbase_name = "small"\n'
    )
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number, shape in enumerate(((48, 40, 3), (32, 32, 4), (20, 64, 3))):
        picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        picture.save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"a red hat\n{number}\n")
    return folder


def statistics(dao: Path, pictures: Path, *words: str) -> Result:
    config = ("--config", str(dao / "coordinator.toml"))
    return CliRunner().invoke(app, ["base", "statistics", str(pictures), *config, *words], env={"COLUMNS": "300"})


def test_a_dao_makes_the_statistics_of_its_own_base(dao: Path) -> None:
    bound = base_hash(dao / "base")
    told = statistics(dao, dao / "pictures", "--rank", "4")
    assert told.exit_code == 0, told.output
    assert "G₀ of 3 pictures" in told.output
    assert base_hash(dao / "base") == bound
    file = shipped(dao / "base", bound)
    assert file
    own = load_statistics(file.read_bytes())
    layers = adapted_layers(dao / "base")
    assert {group: one.factor.shape for group, one in own.items()} == {
        input_group(name): (layer.d_in, min(4, layer.d_in)) for name, layer in layers.items()
    }
    before = file.read_bytes()
    statistics(dao, dao / "pictures", "--rank", "4")
    assert file.read_bytes() == before, "it is not the same file each time"


def test_pictures_that_cannot_be_used_are_told_in_one_sentence(dao: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> None:
        told = statistics(dao, tmp_path)
        assert told.exit_code == 1
        assert all(word in told.output for word in words), told.output

    refused("holds no picture", "each with a .txt")
    (tmp_path / "one.png").write_bytes(b"no picture")
    refused("one.txt cannot be read as a caption", "Write there what its picture shows")
    (tmp_path / "one.txt").write_text("a dog")
    refused("one.png cannot be opened as a picture", "Take it out")
