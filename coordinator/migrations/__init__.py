"""The revisions of the database's tables, one after the other. What applies them is coordinator/schema.py."""
