"""The member's side: wallet and grant, collection (NFT to dataset), training, node, pull.

Images are opened here and never leave. Nothing here is imported by ``coordinator``, nor the other way round.
"""
