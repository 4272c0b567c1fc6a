"""What anybody may look at: the pages, bounded questions to the database for them, and their words and threads.

Nothing personal may stand on these pages: one that was composed is kept and given to all who ask.
"""
