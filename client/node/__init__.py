"""The member's side of the transport: tasks come in, replies go out, and nothing else runs here.

What lives here: the SuperNode as a child process, and the ClientApp that hands each task to the installed
handler. ``flwr`` is imported in ``link`` only. No training, no wallet, and no code from the network.
"""
