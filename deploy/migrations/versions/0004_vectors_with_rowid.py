"""Tables of vectors with rowids on SQLite

Without rowids a row of more than a quarter of a page, 1,002 bytes, has a page of 4 KiB to itself; with rowids two rows
of 1.5 kB share one. The rows are copied in one transaction, in the order of their keys; PostgreSQL has nothing to do.
A file keeps its size and fills the pages that are free then; `interestream forget --erase` rewrites it without them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _copy(with_rowid=True)


def downgrade() -> None:
    _copy(with_rowid=False)


def _copy(*, with_rowid: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for name, columns in _tables().items():
        op.rename_table(name, f"{name}_before")
        new = op.create_table(name, *columns, sqlite_with_rowid=with_rowid)
        names = [column.name for column in new.columns]
        before = sa.table(f"{name}_before", *map(sa.column, names))
        rows = sa.select(before).order_by(*(before.c[key.name] for key in new.primary_key))
        op.execute(new.insert().from_select(names, rows))
        op.drop_table(f"{name}_before")


def _tables() -> dict[str, list[sa.Column | sa.PrimaryKeyConstraint]]:
    return {
        "vectors": [
            sa.Column("user_id", sa.Text(), nullable=False),
            sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("prompt_version", sa.Text(), nullable=False),
            sa.Column("encoder", sa.Text(), nullable=False),
            sa.Column("summary", sa.LargeBinary(), nullable=False),
            sa.Column("shift", sa.LargeBinary(), nullable=True),
            sa.PrimaryKeyConstraint("user_id", "generation", "index", "prompt_version", "encoder"),
        ],
        "representations": [
            sa.Column("user_id", sa.Text(), nullable=False),
            sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("artifact", sa.Text(), nullable=False),
            sa.Column("vector", sa.LargeBinary(), nullable=False),
            sa.PrimaryKeyConstraint("user_id", "generation", "index", "artifact"),
        ],
        "bank_vectors": [
            sa.Column("bank", sa.Text(), nullable=False),
            sa.Column("key", sa.LargeBinary(), nullable=False),
            sa.Column("vector", sa.LargeBinary(), nullable=True),
            sa.Column("owner", sa.Text(), nullable=True),
            sa.Column("until", sa.Float(precision=53), nullable=True),
            sa.PrimaryKeyConstraint("bank", "key"),
        ],
    }
