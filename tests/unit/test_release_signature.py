"""The coordinator's signature over a release: what it is over, who can check it, and whom it convinces of what."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing._cli import main as official
from release_parts import manifest_of
from typer.testing import CliRunner as Terminal

from client.cli import app
from coordinator.releases.signing import KEY, make_key, shown_key, sign_release, signing_key
from protocol.canonical import sha256
from protocol.errors import BadInput, ContentMismatch, NotAllowed, Unreachable
from protocol.manifest import Manifest
from protocol.release_signature import SIGNATURE, SigningKey, require_signed
from protocol.verification import Check, Outcome, check_papers, read_release

FILES = {"README.md": b"# A model\n", "contributions/ab/adapter.safetensors": bytes(range(200))}
CHECK = "coordinator signature"


class Signed:
    """A signed release, and the coordinator's keys beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys, self.public = folder / "release", folder / "credentials", folder / "public.pem"
        make_key(self.keys)
        self.key = signing_key(self.keys)
        self.public.write_text(self.key.pem)
        for name, data in FILES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        self.manifest = manifest_of(files={name: sha256(data) for name, data in FILES.items()})
        self.write(self.manifest.model_copy(update={"signing_key": self.key.pem}))

    def write(self, manifest: Manifest) -> None:
        (self.folder / "manifest.json").write_bytes(manifest.canonical())
        sign_release(self.folder, self.keys)

    @property
    def signature(self) -> bytes:
        return (self.folder / SIGNATURE).read_bytes()

    def files(self) -> dict[str, str]:
        found = read_release(self.folder)
        hashes = {name: digest for name, digest in found.hashes.items() if name != SIGNATURE}
        return {**hashes, "manifest.json": sha256(found.manifest_bytes)}

    def papers(self, trusted: SigningKey | None = None) -> dict[str, Check]:
        return {one.name: one for one in check_papers(read_release(self.folder), None, trusted)}

    def check(self, trusted: SigningKey | None = None) -> Check:
        return self.papers(trusted)[CHECK]

    def official(self, *words: str) -> int:
        """The exit code of the format's own program, in this process."""
        return CliRunner().invoke(official, [*words, "--signature", str(self.folder / SIGNATURE)]).exit_code

    def officially_right(self) -> bool:
        return self.official("verify", "key", str(self.folder), "--public_key", str(self.public)) == 0

    def sign_officially(self, *words: str) -> None:
        (self.folder / SIGNATURE).unlink()
        words = (str(self.folder), "--private_key", str(self.keys / KEY), *words)
        assert self.official("sign", "key", *words) == 0


@pytest.fixture
def release(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def other_key() -> SigningKey:
    return SigningKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_the_formats_own_program_accepts_a_release_with_nothing_but_the_public_key(release: Signed) -> None:
    words = ["verify", "key", "release", "--signature", f"release/{SIGNATURE}", "--public_key", "public.pem"]
    shutil.rmtree(release.keys)
    here = {"cwd": release.folder.parent, "capture_output": True, "text": True}
    told = subprocess.run([sys.executable, "-m", "model_signing", *words], **here)  # type: ignore[call-overload]
    assert (told.returncode, told.stdout) == (0, "Verification succeeded\n"), told.stderr
    (release.folder / "README.md").write_text("# Another\n")
    told = subprocess.run([sys.executable, "-m", "model_signing", *words], **here)  # type: ignore[call-overload]
    assert told.returncode == 1 and "Hash mismatch for 'README.md'" in told.stderr


def test_the_formats_own_program_and_ours_refuse_one_byte_changed_in_any_file(release: Signed) -> None:
    assert release.officially_right() and release.check(release.key).outcome is Outcome.PASSED
    for name in release.files():
        file = release.folder / name
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert not release.officially_right(), name
        with pytest.raises(ContentMismatch, match=f"{name} is not what was signed"):
            require_signed(release.signature, release.key, release.files())
        file.write_bytes(data)
    assert release.officially_right()


def test_any_byte_changed_in_the_signature_itself_is_found(release: Signed) -> None:
    data, files, draw = release.signature, release.files(), random.Random(0)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        with pytest.raises((BadInput, NotAllowed, ContentMismatch)):
            require_signed(changed, release.key, files)
            pytest.fail(f"byte {at} of {SIGNATURE}: {changed[max(at - 20, 0) : at + 20]!r}")


def test_what_the_formats_own_program_signs_with_the_same_key_is_accepted(release: Signed) -> None:
    release.sign_officially()
    assert release.check(release.key).outcome is Outcome.PASSED


def test_a_file_that_the_signer_left_out_is_not_passed_over(release: Signed) -> None:
    release.sign_officially("--ignore-paths", str(release.folder / "README.md"))
    assert release.officially_right(), "the format lets a signer leave files out"
    assert release.check(release.key).said == "model.sig leaves README.md out."


def test_a_file_too_few_is_found(release: Signed) -> None:
    (release.folder / "README.md").unlink()
    assert release.check(release.key).said == "README.md is missing, which model.sig is over."


def test_whose_the_signature_is_stays_open_until_a_key_is_named(release: Signed) -> None:
    found = release.check()
    assert found.outcome is Outcome.OPEN
    assert f"by the key {release.key.fingerprint[:16]}…, which the release itself names" in found.said
    assert {one.outcome for name, one in release.papers(release.key).items() if name in ("files", CHECK)} == {"passed"}


def test_a_release_that_another_key_signed_is_not_the_coordinators(release: Signed) -> None:
    other = other_key()
    found = release.check(other)
    assert found.outcome is Outcome.FAILED
    assert f"and not by {other.fingerprint[:16]}…, which should have signed" in found.said


def test_a_manifest_that_names_a_key_which_did_not_sign_is_found(release: Signed) -> None:
    other = other_key()
    release.write(release.manifest.model_copy(update={"signing_key": other.pem}))
    assert "model.sig is by the key" in release.check().said and release.check().outcome is Outcome.FAILED
    signature = json.loads(release.signature)
    signature["verificationMaterial"]["publicKey"]["hint"] = other.fingerprint
    (release.folder / SIGNATURE).write_text(json.dumps(signature))
    assert "did not sign this model.sig" in release.check().said


def test_a_manifest_with_something_else_for_a_key_is_found(release: Signed) -> None:
    release.write(release.manifest.model_copy(update={"signing_key": "ssh-ed25519 AAAA"}))
    assert release.check().said == "The manifest's signing_key is no public key in PEM."
    assert release.check().outcome is Outcome.FAILED


def test_a_release_without_its_signature_is_found(release: Signed) -> None:
    (release.folder / SIGNATURE).unlink()
    papers = release.papers(release.key)
    assert papers[CHECK].said == "model.sig is missing, which the manifest announces."
    assert papers["files"].said == "model.sig is missing."
    with pytest.raises(ContentMismatch, match=r"model\.sig is not what the manifest says"):
        read_release(release.folder).manifest.check(read_release(release.folder).hashes)


def test_whoever_pulls_a_release_takes_the_signature_with_it(release: Signed) -> None:
    found = read_release(release.folder)
    found.manifest.check(found.hashes)
    assert set(found.manifest.names) == {*FILES, SIGNATURE}


def test_a_release_from_before_there_were_signatures_is_as_it_was(release: Signed) -> None:
    release.write(release.manifest)
    assert b"signing_key" not in (release.folder / "manifest.json").read_bytes()
    assert release.papers()["files"].said == "model.sig is not named in the manifest."
    (release.folder / SIGNATURE).unlink()
    assert release.papers()["files"].outcome is Outcome.PASSED
    assert release.check().outcome is Outcome.OPEN
    assert "is not signed at all" in release.check(release.key).said
    assert release.check(release.key).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda text: "", "model.sig cannot be read at its beginning"),
        (lambda text: "[" * 100_000, "model.sig cannot be read at its beginning"),
        (lambda text: text.replace("bundle.v0.3", "bundle.v9.9"), "cannot be read at mediaType"),
        (lambda text: text.replace('"tlogEntries":[]', '"tlogEntries":[{}]'), "verificationMaterial.tlogEntries"),
        (lambda text: text.replace('"keyid":""', '"more":""'), "dsseEnvelope.signatures.0.more"),
        (lambda text: text.replace('"payload":"', '"payload":"\\n'), "dsseEnvelope.payload"),
    ],
)
def test_another_form_is_refused_in_a_sentence(release: Signed, form: Callable[[str], str], said: str) -> None:
    (release.folder / SIGNATURE).write_text(form(release.signature.decode()))
    assert said in release.check(release.key).said
    assert release.check(release.key).outcome is Outcome.FAILED


def test_the_command_takes_the_key_from_a_file(release: Signed) -> None:
    def command(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
        told = Terminal().invoke(app, ["verify", str(release.folder), "--json", *words])
        return told.exit_code, {one["name"]: one for one in json.loads(told.output)["checks"]}

    assert command("--signing-key", str(release.public))[1][CHECK]["outcome"] == "passed"
    assert command()[1][CHECK]["outcome"] == "not checked"
    release.public.write_text(other_key().pem)
    code, found = command("--signing-key", str(release.public))
    assert (code, found[CHECK]["outcome"]) == (1, "failed")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.pem", "nowhere.pem cannot be read"),
        (f"credentials/{KEY}", f"{KEY} is no public key in PEM"),
        ("bitcoin.pem", "bitcoin.pem is not on P-256, P-384 or P-521"),
    ],
)
def test_a_file_without_such_a_key_is_told_in_a_sentence(release: Signed, name: str, said: str) -> None:
    bitcoin = ec.generate_private_key(ec.SECP256K1()).public_key()
    pem = bitcoin.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (release.folder.parent / "bitcoin.pem").write_bytes(pem)
    file = release.folder.parent / name
    told = Terminal().invoke(app, ["verify", str(release.folder), "--signing-key", str(file)])
    assert told.exit_code == 1
    assert said in " ".join(told.output.split()), told.output


def private(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, how: KeySerializationEncryption | None = None
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption())


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
def test_a_dao_may_bring_a_key_of_its_own(release: Signed, curve: ec.EllipticCurve) -> None:
    (release.keys / KEY).write_bytes(private(ec.generate_private_key(curve)))
    key = signing_key(release.keys)
    release.public.write_text(key.pem)
    release.write(release.manifest.model_copy(update={"signing_key": key.pem}))
    assert release.check(key).outcome is Outcome.PASSED
    assert release.officially_right()


@pytest.mark.parametrize(
    "content",
    [
        lambda pem: b"",
        lambda pem: pem[: len(pem) // 2],
        lambda pem: private(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
        lambda pem: private(ec.generate_private_key(ec.SECP256K1())),
        lambda pem: private(rsa.generate_private_key(65537, 2048)),
    ],
    ids=["empty", "cut", "encrypted", "of another curve", "RSA"],
)
def test_a_key_that_cannot_sign_is_told_in_a_sentence(release: Signed, content: Callable[[bytes], bytes]) -> None:
    file = release.keys / KEY
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(BadInput, match=r"holds no key that releases can be signed with .* Put it back from a backup"):
        sign_release(release.folder, release.keys)
    assert shown_key(release.keys) is None, "and nobody else is kept from the coordinator by that"
    file.unlink()
    with pytest.raises(BadInput, match="holds no key"):
        signing_key(release.keys)


def test_the_key_is_made_once_and_is_its_owners_only(release: Signed) -> None:
    make_key(release.keys)
    assert signing_key(release.keys) == release.key
    assert (release.keys / KEY).stat().st_mode & 0o777 == 0o600
    assert shown_key(release.keys) == release.key.pem


def test_a_kill_while_the_key_is_made_leaves_none_and_the_next_start_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)
        make_key(tmp_path)
    assert not (tmp_path / KEY).exists() and shown_key(tmp_path) is None
    make_key(tmp_path)
    assert shown_key(tmp_path)


def test_without_the_library_nothing_is_released_unsigned(release: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(Unreachable, match=r"cannot be signed\. Install coterie\[coordinator\]"):
        sign_release(release.folder, release.keys)
