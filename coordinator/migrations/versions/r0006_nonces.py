"""Nonces are sealed under a key of the coordinator's; only those that were used are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Ordered by its bytes in every database."""


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", WORDS, nullable=False),
        sa.Column("value", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.drop_column("nonces", "used")
