"""Every release that was ever published can be verified, whatever has changed since."""

import random
from pathlib import Path

import pytest
from model_signing import verifying
from published_parts import unpack_car

from merging.recompute import recompute
from protocol.adapter import load_adapter
from protocol.release_signature import SIGNATURE, SigningKey
from protocol.verification import Outcome, Release, check_papers, read_release

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.car"))


@pytest.fixture(params=GOLDEN, ids=lambda car: car.stem[:12])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    return read_release(unpack_car(request.param, request.param.stem, tmp_path / "release"))


def test_there_is_one_of_every_manifest_version(tmp_path: Path) -> None:
    versions = {read_release(unpack_car(car, car.stem, tmp_path / car.stem)).manifest.version for car in GOLDEN}
    assert versions == {1}


def test_one_is_signed_and_one_is_from_before(tmp_path: Path) -> None:
    signed = {read_release(unpack_car(car, car.stem, tmp_path / car.stem)).is_signed for car in GOLDEN}
    assert signed == {True, False}


def test_its_papers_hold(release: Release) -> None:
    checks = check_papers(release, release.cid, key_of(release))
    passed = {one.name for one in checks if one.outcome is Outcome.PASSED}
    assert {one.name for one in checks} - passed == (set() if release.is_signed else {"coordinator signature"}), checks


def key_of(release: Release) -> SigningKey | None:
    named = release.manifest.signing_key
    return SigningKey.parse(named.encode(), "It") if named else None


def test_the_programs_of_the_signatures_format_accept_it(release: Release, tmp_path: Path) -> None:
    if key := key_of(release):
        (tmp_path / "key.pem").write_text(key.pem)
        verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pem").verify(
            release.folder, release.folder / SIGNATURE
        )


def test_any_one_byte_changed_is_found(release: Release) -> None:
    files = sorted(path for path in release.folder.rglob("*") if path.is_file())
    draw = random.Random(0)
    for number in range(2 * len(files)):
        file = files[number % len(files)]
        data = bytearray(file.read_bytes())
        at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        data[at] ^= bit
        file.write_bytes(data)
        found = {one.name for one in check_papers(read_release(release.folder), release.cid) if one.outcome == "failed"}
        assert "content identifier" in found, f"{file.name}, byte {at}, bit {bit}"
        if file.name not in ("manifest.json", SIGNATURE):
            assert "files" in found, f"{file.name}, byte {at}, bit {bit}"
        if release.is_signed and file.name != "manifest.json":
            assert "coordinator signature" in found, f"{file.name}, byte {at}, bit {bit}"
        data[at] ^= bit
        file.write_bytes(data)


def test_it_is_named_by_the_same_cid(release: Release) -> None:
    assert release.cid in {car.stem for car in GOLDEN}


def test_it_merges_to_the_same_sums_and_the_same_adapter(release: Release) -> None:
    checks = recompute(release)
    assert {one.outcome for one in checks} == {Outcome.PASSED}, checks


def test_its_adapter_loads(release: Release) -> None:
    adapter = load_adapter((release.folder / "pytorch_lora_weights.safetensors").read_bytes())
    assert max(factors.rank for factors in adapter.values()) == release.manifest.merge.rank
