"""Centroids of what each partition's user liked and did not, and users' vectors in an artifact's common space"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "centroids",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("liked", sa.LargeBinary()),
        sa.Column("disliked", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("user_id", "generation", "index", "encoder", "template"),
    )
    op.add_column("representations", sa.Column("common", sa.LargeBinary()))
    op.add_column("representations", sa.Column("common_sums", sa.LargeBinary()))


def downgrade() -> None:
    op.drop_column("representations", "common_sums")
    op.drop_column("representations", "common")
    op.drop_table("centroids")
