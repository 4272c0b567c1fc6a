"""Telling other programs what happened: each event of the log, to the addresses that the admin has named.

What lives here: who is told what, in which words and with which signature, and the delivery. What happens is decided
elsewhere; nothing that a receiver answers changes anything but its own delivery.
"""
