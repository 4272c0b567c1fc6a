"""The coordinator's side of the transport: a round's tasks go out, members' replies come in.

What lives here: the SuperLink as a child process, the control of its runs and nodes, and the relay between
connected nodes and a round's ``Exchange``. ``flwr`` is imported in ``link`` only. What a round means is
decided in ``coordinator.rounds``; nothing here opens its database.
"""
