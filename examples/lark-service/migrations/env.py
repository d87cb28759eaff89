"""Runs migrations against DATABASE_URL and reads no other setting, so that the owner's run needs none of the service's secrets.

Limits (lock_timeout, statement_timeout) and the application name are the caller's: they go into the URL or into PGOPTIONS and PGAPPNAME.
All revisions of one run are one transaction: either all of them are there afterwards, or none.
"""

import os

from alembic import context
from sqlalchemy import create_engine, pool

url = os.environ.get("DATABASE_URL", "")
if not url:
    raise SystemExit("DATABASE_URL is missing: migrations need the owner's address of the database")
for scheme in ("postgresql://", "postgres://"):
    if url.startswith(scheme):
        url = "postgresql+psycopg://" + url.removeprefix(scheme)

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    given = context.config.attributes.get("connection")
    if given is not None:
        context.configure(connection=given)
        with context.begin_transaction():
            context.run_migrations()
    else:
        engine = create_engine(url, poolclass=pool.NullPool)
        with engine.connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
