"""Indexes for what is asked often: ended nonces at every sign-in, and everything of one member."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_nonces_expires", "nonces", ["expires"])
    op.create_index("ix_sessions_wallet", "sessions", ["wallet"])
    op.create_index("ix_round_grants_grant_id", "round_grants", ["grant_id"])
    op.create_index("ix_contributions_member", "contributions", ["member"])
