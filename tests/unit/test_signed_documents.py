"""What is signed says exactly what it says, and nothing else verifies."""

from pathlib import Path
from random import Random

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from contracts_abi.model import Token
from protocol import node_key
from protocol.contribution import ScoreReport, SignedScoreReport
from protocol.errors import BadInput, ContributionRefused, NotAllowed
from protocol.grant import IDS_SHOWN, Grant, RoundPlan, StartRound, require_signer, sign, tokens_root
from protocol.merkle import MerkleTree

MEMBER = Account.from_key("0x" + "11" * 32)
STRANGER = Account.from_key("0x" + "22" * 32)
TOKEN = Token(chain_id=31337, contract="0x" + "ab" * 20, token_id=7)
HASH = "0" * 64


@pytest.fixture
def key(tmp_path: Path) -> Path:
    node_key.create(tmp_path / "node.pem")
    return tmp_path / "node.pem"


def grant(key: Path, **changes: object) -> Grant:
    fields = {
        "dao": "Nouns-on-anvil",
        "chain_id": 31337,
        "member": MEMBER.address,
        "purpose": "train one image model",
        "tokens": (TOKEN,),
        "node_key": node_key.public_of(key),
        "policy_hash": HASH,
        "base_hash": HASH,
        "expires": 2_000_000_000,
    }
    return Grant(**{**fields, **changes})


def test_a_grant_signed_by_its_member_holds(key: Path) -> None:
    document = grant(key)
    require_signer(document, sign(document, MEMBER.key.hex()), MEMBER.address)


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 1},
        {"policy_hash": "1" * 64},
        {"base_hash": "1" * 64},
        {"expires": 2_000_000_001},
        {"tokens": (TOKEN, Token(chain_id=31337, contract="0x" + "ab" * 20, token_id=8))},
        {"warrant": "more than was signed"},
        {"member": STRANGER.address},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_grant_changed_after_signing_is_refused(key: Path, change: dict[str, object]) -> None:
    signature = sign(grant(key), MEMBER.key.hex())
    with pytest.raises(NotAllowed, match="changed after signing"):
        require_signer(grant(key, **change), signature, MEMBER.address)


def test_someone_elses_signature_is_refused(key: Path) -> None:
    with pytest.raises(NotAllowed, match=STRANGER.address):
        require_signer(grant(key), sign(grant(key), STRANGER.key.hex()), MEMBER.address)


@pytest.mark.parametrize("signature", ["", "0x", "0x1234", "no hex at all", "0x" + "00" * 65, "0x" + "00" * 8193])
def test_a_signature_that_is_none_is_refused_in_one_sentence(key: Path, signature: str) -> None:
    with pytest.raises(NotAllowed):
        require_signer(grant(key), signature, MEMBER.address)


def test_the_wallet_is_shown_which_tokens_in_words_and_the_warrant(key: Path) -> None:
    message = grant(key, warrant="I warrant").typed_data()["message"]
    assert message["tokens"] == f"1 of {TOKEN.contract}: 7"
    assert message["warrant"] == "I warrant"
    many = tuple(TOKEN.model_copy(update={"token_id": n}) for n in range(IDS_SHOWN + 5))
    shown = grant(key, tokens=many).typed_data()["message"]["tokens"]
    assert shown.startswith(f"{IDS_SHOWN + 5} of {TOKEN.contract}: 0, 1, 2") and shown.endswith("and 5 more")


def test_the_signature_binds_tokens_that_the_wallet_has_no_room_to_show(key: Path) -> None:
    many = [TOKEN.model_copy(update={"token_id": n}) for n in range(IDS_SHOWN + 5)]
    other = [*many[:-1], TOKEN.model_copy(update={"token_id": 999})]
    meant, swapped = grant(key, tokens=tuple(many)), grant(key, tokens=tuple(other))
    assert meant.typed_data()["message"]["tokens"] == swapped.typed_data()["message"]["tokens"]
    with pytest.raises(NotAllowed, match="changed after signing"):
        require_signer(swapped, sign(meant, MEMBER.key.hex()), MEMBER.address)


@given(st.sets(st.integers(0, 2**256 - 1), min_size=1, max_size=40), st.randoms())
def test_the_root_stands_for_the_tokens_in_any_order_and_proves_each_of_them(ids: set[int], chance: Random) -> None:
    tokens = [TOKEN.model_copy(update={"token_id": one}) for one in ids]
    root = tokens_root(tokens)
    chance.shuffle(tokens)
    assert tokens_root(tokens) == root
    assert len(tokens) == 1 or tokens_root(tokens[1:]) != root
    tree = MerkleTree(("string",), [(str(token),) for token in tokens])
    node = keccak(keccak(encode(["string"], [str(tokens[0])])))
    for beside in tree.proof(0):
        node = keccak(min(node, beside) + max(node, beside))
    assert node == root


def test_a_start_of_a_round_binds_its_whole_plan() -> None:
    order = StartRound(
        dao="d",
        chain_id=1,
        admin=MEMBER.address,
        plan=RoundPlan(),
        policy_hash=HASH,
        base_hash=HASH,
        nonce="12345678",
        expires=2_000_000_000,
    )
    signature = sign(order, MEMBER.key.hex())
    longer = order.model_copy(update={"plan": RoundPlan(steps=161)})
    require_signer(order, signature, MEMBER.address)
    with pytest.raises(NotAllowed):
        require_signer(longer, signature, MEMBER.address)


def test_documents_survive_their_canonical_form(key: Path) -> None:
    document = grant(key)
    assert Grant.model_validate_json(document.canonical()) == document


@given(st.floats(min_value=0, max_value=1e6, allow_nan=False))
def test_a_plan_survives_its_canonical_form_whatever_its_numbers(number: float) -> None:
    plan = RoundPlan(learning_rate=number, regularisation=number)
    assert RoundPlan.model_validate_json(plan.canonical()).digest() == plan.digest()


def test_a_node_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "node.pem"
    node_key.create(path)
    first = path.read_bytes()
    node_key.create(path)
    assert path.read_bytes() == first
    assert path.stat().st_mode & 0o077 == 0


def test_a_node_signature_over_other_bytes_is_refused(key: Path) -> None:
    signature = node_key.sign(key, b"what was sent")
    node_key.verify(node_key.public_of(key), b"what was sent", signature)
    with pytest.raises(ContributionRefused, match="does not match"):
        node_key.verify(node_key.public_of(key), b"something else", signature)


def test_a_point_off_the_curve_is_no_node_key() -> None:
    with pytest.raises(BadInput, match="no EC P-384 public key"):
        node_key.public_pem("02" + "ff" * 48)


def test_a_score_nobody_signed_is_refused(key: Path) -> None:
    report = ScoreReport(
        round_id="r",
        grant_id="g",
        node_key=node_key.public_of(key),
        candidates_hash=HASH,
        losses=((0.5, 0.4),),
        images=3,
    )
    signed = SignedScoreReport(report=report, signature=node_key.sign(key, report.canonical()))
    signed.check_integrity()
    flattered = signed.model_copy(update={"report": report.model_copy(update={"losses": ((0.5, 0.1),)})})
    with pytest.raises(ContributionRefused):
        flattered.check_integrity()


def test_members_train_from_seeds_of_their_own_and_each_always_from_the_same() -> None:
    plan = RoundPlan(seed=7)
    one, other = plan.seed_of("0x" + "11" * 20), plan.seed_of("0x" + "22" * 20)
    assert one != other
    assert plan.seed_of("0x" + "11" * 20) == one
    assert RoundPlan(seed=8).seed_of("0x" + "11" * 20) != one
