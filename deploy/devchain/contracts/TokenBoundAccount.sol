// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import {ERC6551} from "solady/src/accounts/ERC6551.sol";
import {LibERC6551} from "solady/src/accounts/LibERC6551.sol";

/// @title Solady's ERC-6551 account, and the code of the canonical registry for chains that lack it
contract TokenBoundAccount is ERC6551 {
    function registryCode() external pure returns (bytes memory) {
        return LibERC6551.REGISTRY_BYTECODE;
    }

    function _domainNameAndVersion() internal pure override returns (string memory, string memory) {
        return ("TokenBoundAccount", "1");
    }
}
