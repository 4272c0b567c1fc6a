"""The admins' desk: its pages, questions to the database, the chain and the disk, and the answers in plain words.

Nothing here acts. An act is an order that a wallet signs; ``coordinator.web.acts`` takes it.
"""
