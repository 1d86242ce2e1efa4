"""Prefect's API for a night: the server that is named must answer; a temporary one has a database that is nobody else's."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration.server import guard_server, temporary

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
STATED = (DATABASE, "PREFECT_API_DATABASE_CONNECTION_URL")
"""Where the user says which database a temporary server has."""
ASK_SECONDS = 10.0
"""How long a server that is named may take to say that it is there."""
UNSAFE = frozenset("?#%")
"""What a path in a database's URL cannot hold."""


@contextmanager
def api_for(folder: Path, home: Path) -> Iterator[None]:
    """Prefect's API, ready for a night whose runs lie in `folder`. `home`: the user's, where an empty database is kept.

    The temporary server's database lies there while the night goes on: another Prefect on this machine may have migrated
    the one in the user's home. Raises UserError where the server that is named does not answer, or none can be started.
    """
    if not temporary():
        answering()
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    if SubprocessASGIServer().running:  # whoever calls us has one
        yield
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clear(folder)
    database = folder / f"prefect-{os.getpid()}.db"
    try:
        server = _start(database, home / f"prefect-{version('prefect')}.db")
        try:
            yield
        finally:
            server.stop()
    finally:
        _remove(database)


def answering() -> None:
    """Raises UserError where PREFECT_API_URL is one that nobody answers."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    with get_client(httpx_settings={"timeout": ASK_SECONDS}, sync_client=True) as client:
        failed = client.api_healthcheck()
    if failed is not None:
        raise UserError(
            f"no Prefect server answers at PREFECT_API_URL={PREFECT_API_URL.value()}; start it, or unset the variable "
            "(`prefect config unset PREFECT_API_URL` where a profile has it): a run then starts a temporary one"
        )


def _start(database: Path, template: Path) -> SubprocessASGIServer:
    """Start the temporary server on `database`: a copy of `template`, an empty, migrated one, where there is one."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    stated = any(name in os.environ for name in STATED) or not UNSAFE.isdisjoint(str(database))
    copied = not stated and _copied(template, database)
    try:
        with _environment({} if stated else {DATABASE: f"sqlite+aiosqlite:///{database}"}):
            server.start()
    except RuntimeError as error:
        if copied:  # what is kept is of no use: once more, from nothing
            server.stop()
            template.unlink(missing_ok=True)
            _remove(database)
            return _start(database, template)
        raise UserError(f"Prefect's temporary API did not start ({error})") from error
    guard_server()
    if not stated and not copied:
        _keep(database, template)
    return server


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]


def _copied(template: Path, database: Path) -> bool:
    """Migrating an empty database takes as long as the server's whole start: it is done once per version of Prefect."""
    os.close(os.open(database, os.O_WRONLY | os.O_CREAT, 0o600))
    with (
        suppress(OSError, sqlite3.Error),
        closing(sqlite3.connect(f"file:{template}?mode=ro", uri=True)) as kept,
    ):
        kept.execute("select version_num from alembic_version").fetchone()
        database.write_bytes(template.read_bytes())
        return True
    return False


def _keep(database: Path, template: Path) -> None:
    """Keep the migrated database for the next run; where the home is closed to us, nothing is kept."""
    partial = template.with_suffix(f".{os.getpid()}")
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(partial)) as there:
            here.backup(there)
        partial.replace(template)


def _clear(folder: Path) -> None:
    """Remove what killed processes have left."""
    for path in folder.glob("prefect-*.db"):
        pid = path.stem.removeprefix("prefect-")
        if not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            _remove(path)


def _remove(database: Path) -> None:
    for path in database.parent.glob(f"{database.name}*"):
        with suppress(OSError):
            path.unlink()
