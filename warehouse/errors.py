"""The errors of this package, as one tree. A message says what happened, to which thing, and what to do; never a prompt."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path


class WarehouseError(Exception):
    """The base of every error that this package raises on purpose."""


class InputError(WarehouseError):
    """The input is wrong as a whole: missing, unreadable, without a needed column, or without one
    acceptable row.
    """


class JournalError(WarehouseError):
    """A journal cannot be written, or one that was left behind cannot be read. Nothing was removed."""


class StoreError(WarehouseError):
    """The warehouse file or a part cannot be used as it is."""


class WarehouseInUse(StoreError):
    """Another process has the warehouse, and did not let go of it in time."""


class PublishError(WarehouseError):
    """Results could not be written to `output:`; they are in the warehouse."""


class StoreUnreachable(WarehouseError):
    """An object store, or a folder, that cannot be reached, read or written to."""


class AskError(WarehouseError):
    """A question in SQL that cannot be answered."""


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SHUT = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
BROKEN = frozenset({errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE})


def of_storage(error: BaseException, folder: Path | None = None) -> str | None:
    """Return the message for a user where `error` is this package's or the disk's; None for any other.

    `folder` is named where the error does not name a file.
    """
    if isinstance(error, WarehouseError):
        return str(error)
    if not isinstance(error, OSError) or error.errno not in FULL | SHUT | BROKEN:
        return None
    where = error.filename or folder or "a file"
    remedy = "free some space there" if error.errno in FULL else "make it writable"
    return f"{where}: {os.strerror(error.errno or 0)}; {'try again' if error.errno in BROKEN else remedy}"


def nearest(name: str, among: Iterable[str]) -> str:
    """Return what to append to a message about an unknown name: `; did you mean "body"?`, or up to 20 known names."""
    names = list(among)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{next(n for n in names if n.lower() == close[0])}"?'
    return f"; there are: {', '.join(names[:20])}" if names else ""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message without its class prefix (`IO Error: `)."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    head, colon, rest = line.partition(" Error: ")
    return (rest if colon and " " not in head.strip().replace("Invalid Input", "") else line).strip()
