"""Partitions of one scene, where scenes are kept apart"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("partitions", sa.Column("scene", sa.Text(), nullable=True))
    op.add_column("partitions", sa.Column("previous", sa.Integer(), nullable=True))
    op.add_column("partitions", sa.Column("members", sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in ("members", "previous", "scene"):
        op.drop_column("partitions", name)
