"""Who the admins are, by the policy's three ways to say so."""

import json

import pytest
from pydantic import ValidationError

from protocol.policy import AdminRole, AdminSafe, AdminWallets, Policy

ONE, TWO = "0x" + "11" * 20, "0x" + "22" * 20


def policy(admin: object) -> Policy:
    document = {"dao": "d", "purpose": "p", "chain_id": 1, "admin": admin, "collections": []}
    return Policy.model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"contract": ONE}, AdminRole(contract=ONE)),
        ({"contract": ONE, "role": "0x" + "ab" * 32}, AdminRole(contract=ONE, role="0x" + "ab" * 32)),
        ({"safe": ONE}, AdminSafe(safe=ONE)),
        ({"wallets": [ONE, TWO]}, AdminWallets(wallets=(ONE, TWO))),
    ],
)
def test_the_fields_say_which_kind_of_admin_is_meant(written: object, meant: object) -> None:
    found = policy(written)
    assert found.admin == meant
    assert Policy.model_validate_json(found.canonical()) == found


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({}, "contract"),
        ({"safe": "me"}, "safe"),
        ({"wallets": []}, "wallets"),
        ({"safe": ONE, "wallets": [TWO]}, "wallets"),
        ({"contract": ONE, "role": "admin"}, "role"),
        ("0x", "admin"),
    ],
)
def test_what_names_no_admin_or_two_kinds_is_refused_by_field(written: object, field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        policy(written)
    assert field in {str(part) for part in refused.value.errors()[0]["loc"]}
