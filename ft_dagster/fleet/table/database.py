"""Opens a database that the processes of one instance share: a file of SQLite, or Postgres for several
hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa

from ft_dagster.errors import UserError

BUSY_SECONDS = 30  # that a writer waits for another, and a server may take to answer
ENDINGS = ("", "-journal", "-wal", "-shm")  # of the files of one in SQLite


class SharedDatabase:
    """Lets one process write at a time: SQLite has it so, in Postgres a lock of its own sees to it.

    `what`: what is kept in it, and `fix`: what to do where it cannot be used, as errors say them. `url`: for
    people, without a password.
    """

    def __init__(self, url: str, what: str, fix: str) -> None:
        self.is_file = url.startswith("sqlite")
        waits = {"timeout" if self.is_file else "connect_timeout": BUSY_SECONDS}
        self._engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=waits)
        self.url = self._engine.url.render_as_string(hide_password=True)
        self._what, self._fix = what, fix

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Raises UserError where it cannot be used now."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise self._unusable(error) from None

    @contextmanager
    def changing(self) -> Iterator[sa.Connection]:
        """Write all of one block together, or not at all. Raises as `reading`."""
        with self.reading() as connection:
            self._wait_for_turn(connection)
            yield connection

    def empty(self, tables: sa.MetaData) -> None:
        """Drop tables; a file of SQLite that is no database any more goes whole. Raises UserError."""
        try:
            with self._engine.begin() as connection:
                self._wait_for_turn(connection)
                tables.drop_all(connection)
        except sa.exc.OperationalError as error:
            raise self._unusable(error) from None
        except sa.exc.DBAPIError as error:
            file = self._engine.url.database
            if not self.is_file or file is None:
                raise self._unusable(error) from None
            for ending in ENDINGS:
                Path(file + ending).unlink(missing_ok=True)

    def _wait_for_turn(self, connection: sa.Connection) -> None:
        if self.is_file:
            return
        turn = int.from_bytes(sha256(self._what.encode()).digest()[:8], signed=True)
        connection.execute(sa.text(f"set local lock_timeout = '{BUSY_SECONDS}s'"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(turn)))

    def _unusable(self, error: sa.exc.DBAPIError) -> UserError:
        said = str(error.orig).partition("\n")[0]
        return UserError(f"{self._what} cannot be used: {said}", file=self.url, fix=self._fix)
