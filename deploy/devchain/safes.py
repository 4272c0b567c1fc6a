"""Safe wallets (1.4.1) on the dev chain, and what their owners sign together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_typing import ChecksumAddress
from web3.contract import Contract

from deploy.devchain.anvil import CHAIN_ID, HERE
from deploy.devchain.deployment import Artifact, Deployer
from protocol.errors import NotFound

NOBODY = "0x" + 40 * "0"
SENTINEL = "0x" + 39 * "0" + "1"
"""Before the first owner in a Safe's list."""
_CALL, _DELEGATE = 0, 1
UNDEPLOYED = bytes.fromhex(16 * "6492")
"""With this a signature by a wallet that is not deployed yet ends (ERC-6492)."""


@dataclass(frozen=True)
class Plan:
    """A Safe before it is deployed: its address is known, and what deploys it."""

    address: ChecksumAddress
    factory: ChecksumAddress
    calldata: bytes

    def signature(self, digest: bytes, keys: Sequence[str]) -> str:
        """The owners' signature over ``digest``, wrapped with the deployment."""
        inner = bytes.fromhex(safe_signature(self.address, digest, keys)[2:])
        wrapped = encode(["address", "bytes", "bytes"], [self.factory, self.calldata, inner])
        return "0x" + (wrapped + UNDEPLOYED).hex()


class Safes:
    """Singleton, proxy factory and fallback handler, deployed once."""

    def __init__(self, deployer: Deployer) -> None:
        self._deployer = deployer
        self._abi = _artifact("Safe.sol/Safe").abi
        self._singleton = deployer.deploy(_artifact("Safe.sol/Safe"))
        self._factory = deployer.deploy(_artifact("proxies/SafeProxyFactory.sol/SafeProxyFactory"))
        handler = "handler/CompatibilityFallbackHandler.sol/CompatibilityFallbackHandler"
        self._handler = deployer.deploy(_artifact(handler))

    def plan(self, owners: Sequence[str], threshold: int, salt: int) -> Plan:
        """Where the Safe of these owners will be, and how it gets there."""
        return self._plan(self.setup(owners, threshold), salt)

    def blank(self, salt: int) -> Plan:
        """A Safe that nobody has set up: whoever calls it first decides whose it is."""
        return self._plan(b"", salt)

    def setup(self, owners: Sequence[str], threshold: int) -> bytes:
        """The call that makes a blank Safe these owners'."""
        terms = (list(owners), threshold, NOBODY, b"", self._handler.address, NOBODY, 0, NOBODY)
        return bytes.fromhex(self._singleton.encode_abi("setup", args=terms)[2:])

    def _plan(self, initializer: bytes, salt: int) -> Plan:
        arguments = (self._singleton.address, initializer, salt)
        return Plan(
            address=self._factory.functions.createProxyWithNonce(*arguments).call(),
            factory=self._factory.address,
            calldata=bytes.fromhex(self._factory.encode_abi("createProxyWithNonce", args=arguments)[2:]),
        )

    def deploy(self, plan: Plan) -> Contract:
        """The planned Safe, deployed."""
        self._deployer.send([{"to": plan.factory, "data": "0x" + plan.calldata.hex()}])
        safe: Contract = self._factory.w3.eth.contract(plan.address, abi=self._abi)
        return safe

    def swap_owner(self, safe: Contract, before: str, old: str, new: str, keys: Sequence[str]) -> None:
        """Put ``new`` in the place of ``old``, which follows ``before`` in the list; ``keys`` of enough owners sign."""
        self._execute(safe, safe.address, safe.encode_abi("swapOwner", args=(before, old, new)), _CALL, keys)

    def note(self, safe: Contract, digest: bytes, keys: Sequence[str]) -> None:
        """Have the Safe note on chain that it signs ``digest``: from then on an empty signature will do."""
        library = self._deployer.deploy(_artifact("libraries/SignMessageLib.sol/SignMessageLib"))
        data = library.encode_abi("signMessage", args=(encode(["bytes32"], [digest]),))
        self._execute(safe, library.address, data, _DELEGATE, keys)

    def _execute(self, safe: Contract, to: str, data: str, operation: int, keys: Sequence[str]) -> None:
        terms = (to, 0, data, operation, 0, 0, 0, NOBODY, NOBODY)
        digest = safe.functions.getTransactionHash(*terms, safe.functions.nonce().call()).call()
        execute = safe.encode_abi("execTransaction", args=(*terms, _in_order(digest, keys)))
        self._deployer.send([{"to": safe.address, "data": execute}])


def safe_signature(safe: str, digest: bytes, keys: Sequence[str]) -> str:
    """What these owners of ``safe`` sign together so that ERC-1271 says yes to ``digest``: 65 bytes each, hex."""
    shown = {
        "types": {
            "EIP712Domain": [{"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"}],
            "SafeMessage": [{"name": "message", "type": "bytes"}],
        },
        "primaryType": "SafeMessage",
        "domain": {"chainId": CHAIN_ID, "verifyingContract": safe},
        "message": {"message": digest},
    }
    signable = encode_typed_data(full_message=shown)
    owners = sorted((Account.from_key(key) for key in keys), key=lambda owner: int(owner.address, 16))
    return "0x" + b"".join(bytes(owner.sign_message(signable).signature) for owner in owners).hex()


def _in_order(digest: bytes, keys: Sequence[str]) -> bytes:
    owners = sorted((Account.from_key(key) for key in keys), key=lambda owner: int(owner.address, 16))
    return b"".join(bytes(owner.unsafe_sign_hash(digest).signature) for owner in owners)


def _artifact(name: str) -> Artifact:
    file = HERE / f"node_modules/@safe-global/safe-contracts/build/artifacts/contracts/{name}.json"
    if not file.exists():
        raise NotFound(f"There is no {file}.", f'Run "npm ci --ignore-scripts" in {HERE}.')
    artifact = json.loads(file.read_bytes())
    return Artifact(abi=artifact["abi"], bytecode=artifact["bytecode"])
