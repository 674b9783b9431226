"""Offers that nobody took"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "offers",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("scene", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(53), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "at", "item_id", "scene"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("offers")
