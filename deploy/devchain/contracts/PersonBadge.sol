// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.13;

/// @title A badge that cannot be handed on, and what it says of whoever has one
/// @notice As much of ERC-721 and ERC-5192 (0xb45a3c0e) as tells who has a badge, with a proof of personhood's questions.
contract PersonBadge {
    address private immutable _issuer = msg.sender;
    mapping(address => uint256) public balanceOf;
    mapping(address => uint256) public score;

    /// @notice Gives one badge, and a score. For whoever deployed it.
    function issue(address to, uint256 points) external {
        require(msg.sender == _issuer, "only the issuer");
        balanceOf[to] += 1;
        score[to] = points;
    }

    /// @notice Whether `account` is a person.
    function isHuman(address account) external view returns (bool) {
        return balanceOf[account] > 0;
    }

    /// @notice Every badge stays where it is.
    function locked(uint256) external pure returns (bool) {
        return true;
    }

    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return interfaceId == 0x01ffc9a7 || interfaceId == 0xb45a3c0e;
    }
}
