"""Alembic's entry: migrates the connection that streams/store/engine.py hands over, or INTERESTREAM_STORE's.

From the shell: alembic -c deploy/alembic.ini current | upgrade head | revision --autogenerate -m "..."
"""

from alembic import context
from sqlalchemy import create_engine

import streams.store.tables  # noqa: F401  (both register their tables)
from interest.store.tables import metadata
from streams.settings.load import store_url

connection = context.config.attributes.get("connection") or create_engine(store_url()).connect()
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
