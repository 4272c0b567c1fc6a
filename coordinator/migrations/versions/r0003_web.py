"""What the web side keeps"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Ordered by its bytes in every database."""


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("name", WORDS, nullable=False),
        sa.Column("asked", WORDS, nullable=False),
        sa.Column("answer", WORDS, nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_answers_at", "answers", ["at"])

    op.add_column("round_grants", sa.Column("asked_at", sa.BigInteger(), nullable=True))

    op.add_column("rounds", sa.Column("paused_at", sa.BigInteger(), nullable=True))
