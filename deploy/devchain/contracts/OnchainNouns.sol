// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import "@openzeppelin/contracts/token/ERC721/presets/ERC721PresetMinterPauserAutoId.sol";

/// @title Nouns whose metadata lives on the chain
/// @notice OpenZeppelin's preset (enumerable, AccessControl, ids from 0), with a tokenURI given at mint.
contract OnchainNouns is ERC721PresetMinterPauserAutoId {
    /// @dev Mirrors the preset's private counter; the supply would not do, for a burn lowers it.
    uint256 private _nextId;
    mapping(uint256 => string) private _uris;

    constructor(
        string memory name,
        string memory symbol,
        string memory baseURI
    ) ERC721PresetMinterPauserAutoId(name, symbol, baseURI) {}

    /// @notice Mints the next id to `to`; its tokenURI is baseURI + id. For MINTER_ROLE.
    function mint(address to) public override {
        super.mint(to);
        _nextId++;
    }

    /// @notice Mints the next id to `to` with a tokenURI of its own. For MINTER_ROLE.
    function mintWithUri(address to, string calldata uri) external {
        _uris[_nextId] = uri;
        mint(to);
    }

    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        _requireMinted(tokenId);
        string memory uri = _uris[tokenId];
        return bytes(uri).length > 0 ? uri : super.tokenURI(tokenId);
    }
}
