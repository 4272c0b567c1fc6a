// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// The part of delegate.xyz's registry, version 2, that Coterie asks, for tests: whoever calls delegates to another.
contract DelegateRegistry {
    enum DelegationType { NONE, ALL, CONTRACT, ERC721, ERC20, ERC1155 }

    struct Delegation {
        DelegationType type_;
        address to;
        address from;
        bytes32 rights;
        address contract_;
        uint256 tokenId;
        uint256 amount;
    }

    mapping(bytes32 => bool) private _enabled;
    mapping(address => Delegation[]) private _incoming;

    function delegateAll(address to, bytes32 rights, bool enable) external payable returns (bytes32) {
        return _delegate(Delegation(DelegationType.ALL, to, msg.sender, rights, address(0), 0, 0), enable);
    }

    function delegateContract(address to, address contract_, bytes32 rights, bool enable)
        external
        payable
        returns (bytes32)
    {
        return _delegate(Delegation(DelegationType.CONTRACT, to, msg.sender, rights, contract_, 0, 0), enable);
    }

    function delegateERC721(address to, address contract_, uint256 tokenId, bytes32 rights, bool enable)
        external
        payable
        returns (bytes32)
    {
        return _delegate(Delegation(DelegationType.ERC721, to, msg.sender, rights, contract_, tokenId, 0), enable);
    }

    function checkDelegateForAll(address to, address from, bytes32 rights) public view returns (bool) {
        return _has(DelegationType.ALL, to, from, rights, address(0), 0);
    }

    function checkDelegateForContract(address to, address from, address contract_, bytes32 rights)
        public
        view
        returns (bool)
    {
        return checkDelegateForAll(to, from, rights) || _has(DelegationType.CONTRACT, to, from, rights, contract_, 0);
    }

    function checkDelegateForERC721(address to, address from, address contract_, uint256 tokenId, bytes32 rights)
        external
        view
        returns (bool)
    {
        return checkDelegateForContract(to, from, contract_, rights)
            || _has(DelegationType.ERC721, to, from, rights, contract_, tokenId);
    }

    /// What is in force only: one that was taken back is left out.
    function getIncomingDelegations(address to) external view returns (Delegation[] memory found) {
        Delegation[] storage all = _incoming[to];
        uint256 count;
        for (uint256 i; i < all.length; ++i) if (_enabled[_hash(all[i])]) ++count;
        found = new Delegation[](count);
        for (uint256 i = all.length; i > 0; --i) if (_enabled[_hash(all[i - 1])]) found[--count] = all[i - 1];
    }

    function _delegate(Delegation memory delegation, bool enable) private returns (bytes32 hash) {
        hash = _hash(delegation);
        bool known;
        Delegation[] storage all = _incoming[delegation.to];
        for (uint256 i; i < all.length; ++i) known = known || _hash(all[i]) == hash;
        if (!known) all.push(delegation);
        _enabled[hash] = enable;
    }

    /// A delegation without rights is one for everything.
    function _has(DelegationType kind, address to, address from, bytes32 rights, address contract_, uint256 tokenId)
        private
        view
        returns (bool)
    {
        return _enabled[_hash(Delegation(kind, to, from, "", contract_, tokenId, 0))]
            || (rights != "" && _enabled[_hash(Delegation(kind, to, from, rights, contract_, tokenId, 0))]);
    }

    function _hash(Delegation memory delegation) private pure returns (bytes32) {
        return keccak256(abi.encode(delegation));
    }
}
