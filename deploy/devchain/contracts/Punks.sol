// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

/// @title A market with the outside of CryptoPunks (2017): no ERC-165, no ownerOf, no tokenURI
/// @notice Keeps the original's flaw: an accepted bid is logged with a zero receiver, for the bid is cleared first.
contract Punks {
    event Assign(address indexed to, uint256 punkIndex);
    event Transfer(address indexed from, address indexed to, uint256 value);
    event PunkTransfer(address indexed from, address indexed to, uint256 punkIndex);
    event PunkBought(uint256 indexed punkIndex, uint256 value, address indexed fromAddress, address indexed toAddress);

    struct Bid {
        address bidder;
        uint256 value;
    }

    mapping(uint256 => address) public punkIndexToAddress;
    mapping(address => uint256) public balanceOf;
    mapping(uint256 => Bid) public punkBids;

    function getPunk(uint256 punkIndex) external {
        require(punkIndex < 10000 && punkIndexToAddress[punkIndex] == address(0));
        _move(punkIndex, msg.sender);
        emit Assign(msg.sender, punkIndex);
    }

    function transferPunk(address to, uint256 punkIndex) external {
        require(punkIndexToAddress[punkIndex] == msg.sender);
        _move(punkIndex, to);
        emit Transfer(msg.sender, to, 1);
        emit PunkTransfer(msg.sender, to, punkIndex);
    }

    function enterBidForPunk(uint256 punkIndex) external payable {
        punkBids[punkIndex] = Bid(msg.sender, msg.value);
    }

    function acceptBidForPunk(uint256 punkIndex) external {
        require(punkIndexToAddress[punkIndex] == msg.sender);
        Bid storage bid = punkBids[punkIndex];
        _move(punkIndex, bid.bidder);
        emit Transfer(msg.sender, bid.bidder, 1);
        punkBids[punkIndex] = Bid(address(0), 0);
        emit PunkBought(punkIndex, bid.value, msg.sender, bid.bidder);
    }

    function _move(uint256 punkIndex, address to) private {
        address from = punkIndexToAddress[punkIndex];
        if (from != address(0)) balanceOf[from]--;
        punkIndexToAddress[punkIndex] = to;
        balanceOf[to]++;
    }
}
