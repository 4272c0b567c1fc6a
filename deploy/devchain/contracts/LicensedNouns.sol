// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import "@a16z/contracts/licenses/CantBeEvil.sol";
import "./OnchainNouns.sol";

/// @title On-chain Nouns under one of a16z's Can't Be Evil licences
/// @notice The licence is fixed at deployment and announced by ERC-165 (0x649a51a8).
contract LicensedNouns is OnchainNouns, CantBeEvil {
    constructor(
        string memory name,
        string memory symbol,
        string memory baseURI,
        LicenseVersion licence
    ) OnchainNouns(name, symbol, baseURI) CantBeEvil(licence) {}

    function supportsInterface(
        bytes4 interfaceId
    ) public view override(ERC721PresetMinterPauserAutoId, CantBeEvil) returns (bool) {
        return super.supportsInterface(interfaceId);
    }
}
