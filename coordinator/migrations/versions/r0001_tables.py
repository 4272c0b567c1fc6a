"""The tables as they were when revisions began.

A database from before that has them already and is taken over: what is there is left as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "acts",
        sa.Column("nonce", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("document", TEXT, nullable=False),
        sa.Column("signature", TEXT, nullable=False),
        sa.Column("snapshot", TEXT, nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("nonce"),
        if_not_exists=True,
    )
    op.create_index("ix_acts_subject", "acts", ["subject"], if_not_exists=True)
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("previous", TEXT, nullable=False),
        sa.Column("hash", TEXT, nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        if_not_exists=True,
    )
    op.create_table(
        "grants",
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("member", TEXT, nullable=False),
        sa.Column("node_key", TEXT, nullable=False),
        sa.Column("node_id", TEXT, nullable=False),
        sa.Column("document", TEXT, nullable=False),
        sa.Column("signature", TEXT, nullable=False),
        sa.Column("snapshot", TEXT, nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=False),
        sa.Column("replaced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id"),
        if_not_exists=True,
    )
    op.create_index("ix_grants_member", "grants", ["member"], if_not_exists=True)
    op.create_index("ix_grants_node_id", "grants", ["node_id"], if_not_exists=True)
    op.create_index("ix_grants_node_key", "grants", ["node_key"], if_not_exists=True)
    op.create_table(
        "linked_wallets",
        sa.Column("wallet", TEXT, nullable=False),
        sa.Column("person", TEXT, nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("wallet"),
        if_not_exists=True,
    )
    op.create_index("ix_linked_wallets_person", "linked_wallets", ["person"], if_not_exists=True)
    op.create_table(
        "nonces",
        sa.Column("value", TEXT, nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("value"),
        if_not_exists=True,
    )
    op.create_table(
        "pins",
        sa.Column("cid", TEXT, nullable=False),
        sa.Column("place", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("request", TEXT, nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.Column("checked_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("cid", "place"),
        if_not_exists=True,
    )
    op.create_table(
        "rounds",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("plan", TEXT, nullable=False),
        sa.Column("policy_hash", TEXT, nullable=False),
        sa.Column("base_hash", TEXT, nullable=False),
        sa.Column("snapshot", TEXT, nullable=False),
        sa.Column("order", TEXT, nullable=True),
        sa.Column("order_signature", TEXT, nullable=True),
        sa.Column("order_nonce", TEXT, nullable=True),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.Column("merged", TEXT, nullable=True),
        sa.Column("candidates_hash", TEXT, nullable=True),
        sa.Column("scoring_since", sa.BigInteger(), nullable=True),
        sa.Column("run_id", TEXT, nullable=True),
        sa.Column("cid", TEXT, nullable=True),
        sa.Column("reason", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("round_id"),
        sa.UniqueConstraint("number"),
        sa.UniqueConstraint("order_nonce"),
        if_not_exists=True,
    )
    op.create_index("ix_rounds_state", "rounds", ["state"], if_not_exists=True)
    op.create_table(
        "sessions",
        sa.Column("token_sha256", TEXT, nullable=False),
        sa.Column("wallet", TEXT, nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256"),
        if_not_exists=True,
    )
    op.create_table(
        "wrong_codes",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        if_not_exists=True,
    )
    op.create_index("ix_wrong_codes_at", "wrong_codes", ["at"], if_not_exists=True)
    op.create_index("ix_wrong_codes_source", "wrong_codes", ["source"], if_not_exists=True)
    op.create_table(
        "contributions",
        sa.Column("contribution_id", TEXT, nullable=False),
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("member", TEXT, nullable=False),
        sa.Column("header", TEXT, nullable=False),
        sa.Column("signature", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("lapsed_token", TEXT, nullable=True),
        sa.Column("lapsed_at", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["grant_id"],
            ["grants.grant_id"],
        ),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("contribution_id"),
        if_not_exists=True,
    )
    op.create_index("ix_contributions_grant_id", "contributions", ["grant_id"], if_not_exists=True)
    op.create_index("ix_contributions_round_id", "contributions", ["round_id"], if_not_exists=True)
    op.create_index("ix_contributions_state", "contributions", ["state"], if_not_exists=True)
    op.create_table(
        "devices",
        sa.Column("device_code_sha256", TEXT, nullable=False),
        sa.Column("user_code", TEXT, nullable=False),
        sa.Column("node_key", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("interval", sa.BigInteger(), nullable=False),
        sa.Column("polled_at", sa.BigInteger(), nullable=True),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("grant_id", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["grant_id"],
            ["grants.grant_id"],
        ),
        sa.PrimaryKeyConstraint("device_code_sha256"),
        sa.UniqueConstraint("user_code"),
        if_not_exists=True,
    )
    op.create_index("ix_devices_source", "devices", ["source"], if_not_exists=True)
    op.create_table(
        "exchanges",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("node_key", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("said", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("round_id", "node_key", "state"),
        if_not_exists=True,
    )
    op.create_table(
        "releases",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cid", TEXT, nullable=False),
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("parent", TEXT, nullable=True),
        sa.Column("manifest", TEXT, nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("round_id"),
        if_not_exists=True,
    )
    op.create_index("ix_releases_cid", "releases", ["cid"], if_not_exists=True)
    op.create_table(
        "round_grants",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("expected", sa.Boolean(), nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["grant_id"],
            ["grants.grant_id"],
        ),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("round_id", "grant_id"),
        if_not_exists=True,
    )
    op.create_table(
        "round_tokens",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("token", TEXT, nullable=False),
        sa.Column("allow", sa.Boolean(), nullable=False),
        sa.Column("verdict", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["grant_id"],
            ["grants.grant_id"],
        ),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("round_id", "grant_id", "token"),
        if_not_exists=True,
    )
    op.create_table(
        "score_reports",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("node_key", TEXT, nullable=False),
        sa.Column("candidates_hash", TEXT, nullable=False),
        sa.Column("report", TEXT, nullable=True),
        sa.Column("declined", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("round_id", "node_key", "candidates_hash"),
        if_not_exists=True,
    )
    op.create_table(
        "secret_sums",
        sa.Column("round_id", TEXT, nullable=False),
        sa.Column("terms", TEXT, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.round_id"],
        ),
        sa.PrimaryKeyConstraint("round_id"),
        if_not_exists=True,
    )
