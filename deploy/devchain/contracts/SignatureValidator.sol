// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// Says whether a wallet that may not be deployed yet accepts a signature (ERC-1271, ERC-6492).
///
/// Never deployed itself: an eth_call without a receiver runs this constructor, which answers one word instead of code,
/// and everything that it did on the way is forgotten. Its bytecode is kept in contracts_abi/signature_validator.py.
///
/// A wallet that stands already is asked as it is: `factory` is only called where there is no code, so that a signature
/// cannot bring a call along that changes who owns a wallet before it is asked.
contract SignatureValidator {
    bytes4 private constant ACCEPTED = 0x1626ba7e; // isValidSignature(bytes32,bytes), which is also its answer for yes

    constructor(
        address account,
        bytes32 digest,
        address factory,
        bytes memory preparation,
        bytes memory signature
    ) {
        if (account.code.length == 0) {
            (bool prepared, ) = factory.call(preparation);
            prepared; // whether it worked is whether there is code now
        }
        bool accepted;
        if (account.code.length > 0) {
            (bool answered, bytes memory answer) = account.staticcall(
                abi.encodeWithSelector(ACCEPTED, digest, signature)
            );
            accepted = answered && answer.length >= 32 && bytes32(answer) == bytes32(ACCEPTED);
        }
        assembly {
            mstore(0, accepted)
            return(0, 32)
        }
    }
}
