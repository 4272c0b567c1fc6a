"""Getting things by CID: releases from any gateway, and the ipfs:// metadata and images of NFTs.

No gateway is trusted: whatever comes is checked block by block before it is used. What a release means (manifest,
signatures) is looked at elsewhere.
"""
