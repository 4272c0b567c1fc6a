"""What the coordinator alone decides or knows of a merge; the merge itself is in the package ``merging``.

``gain`` decides from the members' scores, ``secure`` adds what members masked, ``private`` adds noise. Nothing here
knows of wallets, rounds or the network, nor imports torch.
"""
