"""``coterie watch``: a DAO's log as it grows, each line checked against the line before.

What lives here: reading the log from a coordinator that may be slow, broken or a liar. Nothing acts on what is read.
"""
