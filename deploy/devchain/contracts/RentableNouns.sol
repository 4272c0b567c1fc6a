// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import "@openzeppelin/contracts/token/ERC721/ERC721.sol";

/// @title Nouns that their owners may rent out (ERC-4907), and that cannot be enumerated
contract RentableNouns is ERC721 {
    event UpdateUser(uint256 indexed tokenId, address indexed user, uint64 expires);

    struct Rental {
        address user;
        uint64 expires;
    }

    mapping(uint256 => Rental) private _rentals;

    constructor() ERC721("Rentable Nouns", "RENT") {}

    /// @notice Mints `count` ids from `first` on to `to`. For anyone: this is a test's collection.
    function mintMany(address to, uint256 first, uint256 count) external {
        for (uint256 at = 0; at < count; at++) _mint(to, first + at);
    }

    function setUser(uint256 tokenId, address user, uint64 expires) external {
        require(_isApprovedOrOwner(msg.sender, tokenId), "not yours");
        _rentals[tokenId] = Rental(user, expires);
        emit UpdateUser(tokenId, user, expires);
    }

    function userOf(uint256 tokenId) external view returns (address) {
        Rental memory rental = _rentals[tokenId];
        return rental.expires >= block.timestamp ? rental.user : address(0);
    }

    function userExpires(uint256 tokenId) external view returns (uint256) {
        return _rentals[tokenId].expires;
    }

    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == 0xad092b5c || super.supportsInterface(interfaceId);
    }
}
