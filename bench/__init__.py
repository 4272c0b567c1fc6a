"""Measurements that anyone can repeat: ``python -m bench.train``.

What lives here: programs that time the installed code against plain loops on this machine and print a table. Nothing
that a member or a coordinator runs, and no test.
"""
