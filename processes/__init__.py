"""Child processes, started and surely ended, free ports and large imports: what both sides do alike on the machine.

Nothing here knows what runs in them; nothing of the project is imported.
"""
