// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

import "@openzeppelin/contracts/token/ERC721/IERC721.sol";

/// @title A pool that holds its stakers' tokens and says whose they are, in the two ways that pools commonly do
contract StakingPool {
    struct Stake {
        uint256 since;
        address staker;
    }

    mapping(address => mapping(uint256 => Stake)) private _stakes;

    function stake(IERC721 collection, uint256 tokenId) external {
        collection.transferFrom(msg.sender, address(this), tokenId);
        _stakes[address(collection)][tokenId] = Stake(block.timestamp, msg.sender);
    }

    function unstake(IERC721 collection, uint256 tokenId) external {
        require(_stakes[address(collection)][tokenId].staker == msg.sender, "not yours");
        delete _stakes[address(collection)][tokenId];
        collection.transferFrom(address(this), msg.sender, tokenId);
    }

    function stakerOf(address collection, uint256 tokenId) external view returns (address) {
        return _stakes[collection][tokenId].staker;
    }

    function stakes(address collection, uint256 tokenId) external view returns (uint256 since, address staker) {
        Stake memory found = _stakes[collection][tokenId];
        return (found.since, found.staker);
    }
}
