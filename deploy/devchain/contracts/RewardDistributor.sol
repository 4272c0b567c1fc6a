// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// A reward for one release: each leaf of a StandardMerkleTree over (address, uint256) is paid out once.
contract RewardDistributor {
    using SafeERC20 for IERC20;

    IERC20 public immutable token;
    bytes32 public immutable root;
    mapping(address member => bool) public claimed;

    error NotInTheTree();
    error ClaimedAlready();

    constructor(IERC20 token_, bytes32 root_) {
        token = token_;
        root = root_;
    }

    /// Anyone may send the transaction; the member is paid.
    function claim(address member, uint256 amount, bytes32[] calldata proof) external {
        if (claimed[member]) revert ClaimedAlready();
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(member, amount))));
        if (!MerkleProof.verifyCalldata(proof, root, leaf)) revert NotInTheTree();
        claimed[member] = true;
        token.safeTransfer(member, amount);
    }
}
