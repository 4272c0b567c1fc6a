// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import "./OnchainNouns.sol";

/// @title On-chain Nouns with a licence for each token, read as ERC-5218 says
/// @notice The part of ERC-5218 (0xac7b5ca9) that tells of root licences; whoever deployed it sets and revokes them.
contract TokenLicensedNouns is OnchainNouns {
    mapping(uint256 => string) private _licences;
    mapping(uint256 => bool) private _revoked;

    constructor(
        string memory name,
        string memory symbol,
        string memory baseURI
    ) OnchainNouns(name, symbol, baseURI) {}

    /// @notice Puts `tokenId` under the licence at `uri`. For the admin.
    function setLicence(uint256 tokenId, string calldata uri) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _licences[tokenId + 1] = uri;
        _revoked[tokenId + 1] = false;
    }

    /// @notice Ends the licence of `tokenId`. For the admin.
    function revokeLicence(uint256 tokenId) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _revoked[tokenId + 1] = true;
    }

    /// @notice The root licence of a token, 0 where it has none.
    function getLicenseIdByTokenId(uint256 tokenId) external view returns (uint256) {
        _requireMinted(tokenId);
        return bytes(_licences[tokenId + 1]).length > 0 ? tokenId + 1 : 0;
    }

    function getLicenseURI(uint256 licenceId) external view returns (string memory) {
        return _licences[licenceId];
    }

    function isLicenseActive(uint256 licenceId) external view returns (bool) {
        return bytes(_licences[licenceId]).length > 0 && !_revoked[licenceId];
    }

    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == 0xac7b5ca9 || super.supportsInterface(interfaceId);
    }
}
