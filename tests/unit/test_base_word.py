"""μ holds a merge to G₀: the base's own where it came with one, and the papers say which it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_parts import unpack_car
from release_parts import manifest_of
from round_parts import PLAN, SHAPES, statistics_for
from test_golden_releases import GOLDEN
from test_held_out_gate import order_of
from typer.testing import CliRunner

from bases.shipped import shipped, write_shipped
from coordinator.cli import app
from coordinator.releases.build import ADAPTER, published_files
from coordinator.releases.card import card
from coordinator.rounds import candidate
from coordinator.rounds.merging import MergeOrder, make, merge_in_child
from merging.merge import Anchor, MergeInput, merge, scaled_by
from merging.recompute import recompute
from protocol.adapter import dump_adapter, dump_statistics, load_adapter
from protocol.base import BASE_STATISTICS, base_hash
from protocol.canonical import sha256
from protocol.errors import BadInput, ContentMismatch
from protocol.manifest import BaseStatistics, Manifest
from protocol.modes import Mode
from protocol.verification import Check, Outcome, Release, check_papers, read_release

HELD = PLAN.model_copy(update={"base_weight": 0.5})


def order(folder: Path) -> MergeOrder:
    return order_of(folder, 3, HELD, far=False)


def ship(folder: Path, one: MergeOrder, seed: int = 9) -> Path:
    return write_shipped(folder, one.base_hash, statistics_for(seed), 3)


def test_what_came_with_the_base_is_what_the_merge_is_held_to(tmp_path: Path) -> None:
    one = order(tmp_path)
    file = ship(tmp_path, one)
    made = make(one)
    inputs = [MergeInput(o.contribution_id, 1, o.adapter, o.statistics) for o in one.contributions]
    meant, free = merge(inputs, HELD, anchor=Anchor(0.5, file)), merge(inputs, HELD)
    assert made.merged.commitment == meant.commitment == free.commitment
    assert dump_adapter(made.merged.adapter) == dump_adapter(meant.adapter) != dump_adapter(free.adapter)
    assert made.own_word and made.own_word.said == BaseStatistics(source="shipped", sha256=sha256(file.read_bytes()))


def test_without_mu_nothing_is_said_of_it(tmp_path: Path) -> None:
    one = order_of(tmp_path, 3, PLAN, far=False)
    ship(tmp_path, one)
    assert make(one).own_word is None


def test_what_was_used_stays_with_the_candidates(tmp_path: Path) -> None:
    one = order(tmp_path)
    file = ship(tmp_path, one)
    made, before = make(one), file.read_bytes()
    kept = candidate.keep(one.candidates, made)
    ship(tmp_path, one, seed=10)
    again = candidate.read(one.candidates, kept)
    assert made.own_word and again.own_word and again.own_word.said == made.own_word.said
    assert again.own_word.file.read_bytes() == before
    with pytest.raises(ContentMismatch, match="changed since the merge"):
        candidate.keep(tmp_path / "later", made)


def test_a_file_that_is_cut_off_is_told_in_one_sentence(tmp_path: Path) -> None:
    one = order(tmp_path)
    file = ship(tmp_path, one)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"own statistics .* are damaged") as told:
        make(one)
    assert "coterie-coordinator base statistics" in told.value.hint
    with pytest.raises(BadInput, match="are damaged"):
        merge_in_child(one)


def test_a_file_of_another_base_is_told_in_one_sentence(tmp_path: Path) -> None:
    write_shipped(tmp_path, "b" * 64, statistics_for(9), 3)
    with pytest.raises(BadInput, match="are of another base"):
        make(order(tmp_path))


@pytest.mark.parametrize("change", ["narrower", "missing"])
def test_a_file_of_other_layers_is_told_in_one_sentence(tmp_path: Path, change: str) -> None:
    one, shapes = order(tmp_path), dict(SHAPES)
    name = next(name for name in shapes if name.endswith("attn1.to_out.0"))
    del shapes[name]
    shapes |= {name: (8, 6)} if change == "narrower" else {}
    write_shipped(tmp_path, one.base_hash, statistics_for(9, shapes), 3)
    with pytest.raises(BadInput, match=r"do not fit: .*to_out\.0 has 8 inputs, and they tell of [06]\."):
        make(one)


def test_a_coordinator_does_not_start_with_a_file_that_no_merge_could_use(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    (tmp_path / "base" / BASE_STATISTICS).write_bytes(b"nothing")
    config = tmp_path / "coordinator.toml"
    config.write_text('rpc_url = "http://127.0.0.1:9"\npolicy = "policy.json"\nbase = "base"\nbase_name = "b"\n')
    for command in ("up", "worker"):
        told = CliRunner().invoke(app, [command, "--config", str(config)])
        assert told.exit_code == 1
        assert "are damaged" in told.output


def test_it_does_not_count_in_the_hash_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    before = base_hash(tmp_path)
    assert shipped(tmp_path, before) is None
    file = write_shipped(tmp_path, before, statistics_for(1), 3)
    assert shipped(tmp_path, before) == file
    assert base_hash(tmp_path) == before


@pytest.mark.parametrize("car", GOLDEN, ids=lambda car: car.stem[:12])
def test_an_old_manifest_keeps_its_bytes(car: Path, tmp_path: Path) -> None:
    data = read_release(unpack_car(car, car.stem, tmp_path / "release")).manifest_bytes
    assert Manifest.model_validate_json(data).canonical() == data
    assert b"base_statistics" not in data


def test_a_release_says_which_it_was(tmp_path: Path) -> None:
    plain = manifest_of()
    said = BaseStatistics(source="shipped", sha256="a" * 64)
    merged = plain.merge.model_copy(update={"base_statistics": said})
    held = plain.model_copy(update={"merge": merged, "plan": HELD})
    told = json.loads(held.canonical())["merge"]["base_statistics"]
    assert told == {"source": "shipped", "sha256": "a" * 64}
    assert Manifest.model_validate_json(held.canonical()) == held
    assert "held to its answers on the base's own data (μ = 0.5)" in card(held, ())
    assert "held to" not in card(plain, ())


@pytest.fixture
def held_release(tmp_path: Path) -> Release:
    """A published release that μ came to: its adapter is solved again with a G₀, which lies beside it."""
    folder = unpack_car(GOLDEN[0], GOLDEN[0].stem, tmp_path / "release")
    manifest = read_release(folder).manifest
    adapter = load_adapter((folder / ADAPTER).read_bytes())
    shapes = {name: (len(one.b), one.a.shape[1]) for name, one in adapter.items()}
    (folder / BASE_STATISTICS).write_bytes(dump_statistics(statistics_for(9, shapes)))
    said = BaseStatistics(source="drawn", sha256=sha256((folder / BASE_STATISTICS).read_bytes()))
    changed = manifest.model_copy(
        update={
            "plan": manifest.plan.model_copy(update={"base_weight": 0.5}),
            "merge": manifest.merge.model_copy(update={"base_statistics": said}),
        }
    )
    (folder / "manifest.json").write_bytes(changed.canonical())
    return read_release(folder)


def asked(release: Release, folder: Path | None = None) -> Check:
    sums, adapter = recompute(release, folder)
    assert sums.outcome is Outcome.PASSED, sums
    return adapter


def test_a_release_that_carries_it_is_merged_again_with_it(held_release: Release) -> None:
    assert "away from what the contributions merge to" in asked(held_release).said, "μ was passed over"
    folder = held_release.folder
    inputs = [
        MergeInput(
            one.contribution_id,
            one.weight,
            folder / f"contributions/{one.contribution_id}/adapter.safetensors",
            folder / f"contributions/{one.contribution_id}/statistics.safetensors",
            one.received_at or 0,
        )
        for one in held_release.manifest.contributions
    ]
    made = merge(inputs, held_release.manifest.plan, anchor=Anchor(0.5, folder / BASE_STATISTICS))
    (folder / ADAPTER).write_bytes(dump_adapter(scaled_by(made.adapter, held_release.manifest.merge.gain)))
    assert asked(read_release(folder)).outcome is Outcome.PASSED
    elsewhere = folder.parent / "kept"
    elsewhere.mkdir()
    (folder / "contributions").rename(elsewhere / "contributions")
    assert asked(read_release(folder), elsewhere).outcome is Outcome.PASSED


@pytest.mark.parametrize("there", ["none", "another"])
def test_without_it_only_the_sums_are_merged_again(held_release: Release, there: str) -> None:
    file = held_release.folder / BASE_STATISTICS
    file.unlink() if there == "none" else file.write_bytes(b"another")
    found = asked(held_release)
    assert found.outcome is Outcome.OPEN
    assert "no base_statistics.safetensors of the manifest's hash is here" in found.said


def test_a_release_that_carries_another_than_it_says_is_found(held_release: Release) -> None:
    manifest = held_release.manifest
    files = {**manifest.files, BASE_STATISTICS: "b" * 64}
    (held_release.folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).canonical())
    other = Release(
        **{**vars(read_release(held_release.folder)), "hashes": {**held_release.hashes, BASE_STATISTICS: "b" * 64}}
    )
    (found,) = (one for one in check_papers(other) if one.name == "files")
    assert found.outcome is Outcome.FAILED
    assert "not the one that the merge is said to have had" in found.said


def test_it_is_published_only_where_contributions_are(tmp_path: Path) -> None:
    class Told:
        publish_contributions = True

    file = tmp_path / BASE_STATISTICS
    assert published_files(Told(), "p", Mode.OPEN, [], file) == {BASE_STATISTICS: file}  # type: ignore[arg-type]
    assert published_files(Told(), "p", Mode.OPEN, [], None) == {}  # type: ignore[arg-type]
    assert published_files(None, "p", Mode.OPEN, [], file) == {}
