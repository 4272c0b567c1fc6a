"""The member's wallet: its key, sign-in, and the grant with everything that is checked before it is signed.

What lives here: whatever needs the wallet or a person's consent. Nothing here trains, opens NFTs or keeps the key
anywhere; the node works with its own key and the stored grant alone.
"""
