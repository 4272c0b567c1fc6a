"""Transactions on the dev chain: deploying the demo's collections, minting and transferring their tokens."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress
from hexbytes import HexBytes
from web3 import Web3
from web3.contract import Contract
from web3.types import TxParams, TxReceipt

from deploy.devchain.anvil import BLOCK_GAS, CHAIN_ID, HERE
from protocol.errors import Conflict, NotFound

# A fixed limit spares an estimate per transaction: only what is used is paid for, in play money.
GAS = BLOCK_GAS // 5
ENVELOPE = {"chainId": CHAIN_ID, "gas": GAS, "value": 0, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9}


class CantBeEvil(IntEnum):
    """a16z's licences, numbered as in their contract's ``LicenseVersion``."""

    PUBLIC = 0
    EXCLUSIVE = 1
    COMMERCIAL = 2
    COMMERCIAL_NO_HATE = 3
    PERSONAL = 4
    PERSONAL_NO_HATE = 5


@dataclass(frozen=True)
class Artifact:
    """A compiled contract: its ABI and its creation bytecode, 0x-prefixed."""

    abi: list[dict[str, Any]]
    bytecode: str


@functools.cache
def onchain_nouns() -> Artifact:
    """Our collection whose tokenURI is given at mint; constructor (name, symbol, baseURI)."""
    return _ours("OnchainNouns")


@functools.cache
def licensed_nouns() -> Artifact:
    """The same under a Can't Be Evil licence; constructor (name, symbol, baseURI, CantBeEvil)."""
    return _ours("LicensedNouns")


@functools.cache
def token_licensed_nouns() -> Artifact:
    """The same with an ERC-5218 licence for each token; constructor (name, symbol, baseURI)."""
    return _ours("TokenLicensedNouns")


@functools.cache
def person_badge() -> Artifact:
    """Soulbound badges (ERC-5192) with a proof of personhood's view functions; no constructor arguments."""
    return _ours("PersonBadge")


@functools.cache
def delegate_registry() -> Artifact:
    """What Coterie asks of delegate.xyz's registry; no constructor arguments and no state of its own."""
    return _ours("DelegateRegistry")


@functools.cache
def openzeppelin(name: str) -> Artifact:
    """Any of OpenZeppelin's prebuilt contracts, as ``ERC20PresetFixedSupply``."""
    return _read(f"node_modules/@openzeppelin/contracts/build/contracts/{name}.json")


@functools.cache
def package(path: str) -> Artifact:
    """A contract that an npm package brings compiled, by its path below node_modules."""
    return _read(f"node_modules/{path}.json")


@functools.cache
def preset() -> Artifact:
    """OpenZeppelin's prebuilt collection: tokenURI is baseURI + id; constructor (name, symbol, baseURI)."""
    return _read("node_modules/@openzeppelin/contracts/build/contracts/ERC721PresetMinterPauserAutoId.json")


@functools.cache
def multi_token() -> Artifact:
    """OpenZeppelin's prebuilt ERC-1155; constructor (URI)."""
    return _read("node_modules/@openzeppelin/contracts/build/contracts/ERC1155PresetMinterPauser.json")


@functools.cache
def ours(name: str) -> Artifact:
    """``contracts/<name>.sol``, by its name; what it is for and what it takes stands there."""
    return _ours(name)


class Deployer:
    """One wallet that sends transactions to the dev chain: whoever deploys and mints, or an owner who sells.

    Transactions go out signed here, one after the other without waiting, and are then waited for together; raises
    Conflict when one of them reverts. One instance per key: it counts the nonces itself.
    """

    def __init__(self, url: str, key: str) -> None:
        self._web3 = Web3(Web3.HTTPProvider(url))
        self._web3.provider.global_ccip_read_enabled = False
        self._account: LocalAccount = Account.from_key(key)
        self._nonce: int = self._web3.eth.get_transaction_count(self.address)

    @property
    def address(self) -> ChecksumAddress:
        """The wallet's checksummed address."""
        return self._account.address

    def deploy(self, artifact: Artifact, *arguments: object) -> Contract:
        """Deploy and return the contract, bound to its address."""
        factory = self._web3.eth.contract(abi=artifact.abi, bytecode=artifact.bytecode)
        data = factory.constructor(*arguments).data_in_transaction
        [receipt] = self.send([{"data": data}])
        return cast(Contract, self._web3.eth.contract(receipt["contractAddress"], abi=artifact.abi))

    def mint(self, contract: Contract, wallets: Iterable[str]) -> None:
        """Mint the next ids, one to each wallet in turn; their tokenURI is the collection's baseURI + id."""
        self.send([_call(contract, "mint", wallet) for wallet in wallets])

    def mint_with_uris(self, contract: Contract, mints: Iterable[tuple[str, str]]) -> None:
        """Mint the next ids, one to each (wallet, tokenURI) in turn."""
        self.send([_call(contract, "mintWithUri", wallet, uri) for wallet, uri in mints])

    def transfer(self, contract: Contract, token_id: int, to: str) -> None:
        """Transfer one of this wallet's own tokens."""
        self.send([_call(contract, "transferFrom", self.address, to, token_id)])

    def act(self, contract: Contract, function: str, *arguments: object) -> None:
        """Call a function that changes something."""
        self.send([_call(contract, function, *arguments)])

    def send(self, transactions: Sequence[TxParams]) -> list[TxReceipt]:
        """Sign and send ``transactions`` (``to`` and ``data`` only) in this order; their receipts."""
        hashes = [self._submit(transaction) for transaction in transactions]
        if not hashes:
            return []
        self._web3.eth.wait_for_transaction_receipt(hashes[-1], timeout=60, poll_latency=0.02)
        receipts = [self._web3.eth.get_transaction_receipt(sent) for sent in hashes]
        for receipt in receipts:
            if receipt["status"] != 1:
                raise Conflict(
                    f"Transaction {receipt['transactionHash'].to_0x_hex()} from {self.address} reverted.",
                    "Check that this wallet owns the token, or has the minter's role.",
                )
        return receipts

    def _submit(self, transaction: TxParams) -> HexBytes:
        filled: dict[str, Any] = {**ENVELOPE, "nonce": self._nonce, **transaction}
        sent = self._web3.eth.send_raw_transaction(self._account.sign_transaction(filled).raw_transaction)
        self._nonce += 1
        return sent


def _call(contract: Contract, function: str, *arguments: object) -> TxParams:
    return {"to": contract.address, "data": contract.encode_abi(function, args=arguments)}


def _ours(name: str) -> Artifact:
    try:
        done = subprocess.run(["node", "compile.mjs"], cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotFound("There is no Node on this machine.", "Install Node 20 or newer.") from error
    if done.returncode != 0:
        raise NotFound(
            f"{name}.sol does not compile: {done.stderr.strip()}", f'Run "npm ci --ignore-scripts" in {HERE}.'
        )
    return _read(f"build/{name}.json")


def _read(path: str) -> Artifact:
    file = HERE / path
    if not file.exists():
        raise NotFound(f"There is no {file}.", f'Run "npm ci --ignore-scripts" in {HERE}.')
    artifact = json.loads(file.read_bytes())
    return Artifact(abi=artifact["abi"], bytecode=artifact["bytecode"])
