"""Who is asking: sign-in with a wallet, sessions, and the DAO's admins as the chain names them.

What a wallet may train on is not decided here but in ``coordinator.eligibility``.
"""
