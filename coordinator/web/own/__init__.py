"""What members see of their own part: where they stand, NFTs with reasons, grants, machines, contributions.

Only for whoever is signed in, and of the wallets that are linked to theirs.
"""
