"""What a user can mend, as one tree. Every message says what happened, to which thing, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """The job, its input or the call is wrong. Told as one message, without a trace."""

    exit_code = 2


class BrokeOff(UserError):
    """A run that could not go on once something was sent. What was answered is kept, and `resume` goes on."""

    exit_code = 1


def why_unread(error: Exception) -> str:
    """What to say of a file that could not be read."""
    return "no such file" if isinstance(error, FileNotFoundError) else str(error)


def check_names_a_file(output: Path) -> None:
    """Raise UserError where a place to write to is a folder by its name, as `.` is."""
    if not output.name:
        raise UserError(f"{output} is a folder; name a file")


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing wrong in a job file."""

    line: int
    """In the file, from 1; 0 where there is none, as for a `--param`."""
    place: str
    """Like `endpoints[1].price.input`; empty for the file as a whole."""
    what: str

    def __str__(self) -> str:
        where = ", ".join(filter(None, [f"line {self.line}" if self.line else "", self.place]))
        return f"{where}: {self.what}" if where else self.what


class JobError(UserError):
    """A job file with mistakes: all of them, in the order of the file."""

    def __init__(self, path: Path, mistakes: Iterable[Mistake]) -> None:
        self.path = path
        self.mistakes = tuple(sorted(set(mistakes)))
        count = "a mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n  ".join([f"{path} has {count}:", *map(str, self.mistakes)]))


class DeadlineError(UserError):
    """A deadline that cannot be read."""


class RunIdError(UserError):
    """A run id that cannot name a folder."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Words to end a message on an unknown name with: `; did you mean input?`, or nothing."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
