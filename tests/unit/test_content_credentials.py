"""A sample sheet says that a model drew it, and which; and that it was changed, if it was."""

import io
import json
import stat
from pathlib import Path

import pytest
from c2pa import C2paError, Reader
from cryptography import x509
from cryptography.x509.oid import NameOID
from PIL import Image

from coordinator.releases.credentials import ASSERTION, CERTIFICATES, KEY, SELF_MADE, Drawn, credentialed
from protocol.errors import BadInput

DRAWN = Drawn(dao="Nöuns", round_id="ab", base="small", base_hash="0" * 64, adapter_sha256="0" * 64, licence="CC0")


def picture() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 32), 50).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_names_the_release_and_shows_the_same(tmp_path: Path) -> None:
    plain = picture()
    signed = credentialed(plain, DRAWN, tmp_path)
    assert Image.open(io.BytesIO(signed)).tobytes() == Image.open(io.BytesIO(plain)).tobytes()
    reader = Reader("image/png", io.BytesIO(signed))
    assert reader.get_validation_state() == "Valid"
    active = reader.get_active_manifest()
    told = {one["label"]: one["data"] for one in active["assertions"]}
    assert told[ASSERTION] == DRAWN.model_dump(mode="json")
    [action] = told["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert active["signature_info"]["common_name"] == "Nöuns: coordinator"


def test_a_changed_picture_is_told(tmp_path: Path) -> None:
    signed = bytearray(credentialed(picture(), DRAWN, tmp_path))
    signed[-20] ^= 1
    assert Reader("image/png", io.BytesIO(bytes(signed))).get_validation_state() == "Invalid"


def test_the_certificate_is_made_once_says_what_it_is_and_keeps_its_key_to_its_owner(tmp_path: Path) -> None:
    credentialed(picture(), DRAWN, tmp_path)
    first = (tmp_path / CERTIFICATES).read_bytes()
    credentialed(picture(), DRAWN, tmp_path)
    assert (tmp_path / CERTIFICATES).read_bytes() == first
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600
    own, root = x509.load_pem_x509_certificates(first)
    own.verify_directly_issued_by(root)
    assert root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == SELF_MADE


def test_no_credentials_are_read_out_of_a_picture_without_any() -> None:
    with pytest.raises(C2paError.ManifestNotFound):
        json.loads(Reader("image/png", io.BytesIO(picture())).json())


def test_a_certificate_that_cannot_sign_is_told_in_a_sentence(tmp_path: Path) -> None:
    credentialed(picture(), DRAWN, tmp_path)
    (tmp_path / CERTIFICATES).write_text("no certificate")
    with pytest.raises(BadInput, match="does not sign"):
        credentialed(picture(), DRAWN, tmp_path)
