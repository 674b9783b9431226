"""Vectors of items that users bring, by modality"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "item_modalities",
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("modality", "item_id"),
    )


def downgrade() -> None:
    op.drop_table("item_modalities")
