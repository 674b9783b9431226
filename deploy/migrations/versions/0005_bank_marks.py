"""How far users' behaviours have been filled into the behaviour banks"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "bank_marks",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "bank"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("bank_marks")
