"""Adapted language models and whom they learnt from"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "adaptations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("cut", sa.Float(53), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("forgotten", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "adaptation_users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("adaptation", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "adaptation"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("adaptation_users")
    op.drop_table("adaptations")
