"""What becomes of contributions when tokens change hands: the pure rule, and the step that asks the chain.

Ownership is asked as state at a finalized block, never read from transfer events. Rounds whose snapshot was forked
away are asked about again.
"""
