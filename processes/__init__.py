"""Child processes, started and surely ended, and free ports: what both sides do alike on the machine itself.

Nothing here knows what runs in them; nothing of the project is imported.
"""
