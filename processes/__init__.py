"""Child processes, started and surely ended: the one thing both sides do alike on the machine itself.

Nothing here knows what runs in them; nothing of the project is imported.
"""
