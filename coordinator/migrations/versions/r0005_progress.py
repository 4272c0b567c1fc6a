"""How far members' machines are in a round."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Ordered by its bytes in every database."""


def upgrade() -> None:
    op.create_table(
        "progress",
        sa.Column("round_id", WORDS, nullable=False),
        sa.Column("node_key", WORDS, nullable=False),
        sa.Column("stage", WORDS, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("seconds_left", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("told_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.round_id"]),
        sa.PrimaryKeyConstraint("round_id", "node_key"),
    )
