"""Read deadlines and durations as people write them; the current time is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from thirdshift.flows.errors import DeadlineError

HOW = 'write "06:00 Europe/Berlin", 8h, or an instant like 2026-11-23T06:00:00+01:00'
UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION = re.compile(r"\s*(?:(\d{1,4})d)?\s*(?:(\d{1,6})h)?\s*(?:(\d{1,7})m)?\s*(?:(\d{1,9})s)?\s*")
_CLOCK = re.compile(r"\s*(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\s+(\S+))?\s*")


def duration(text: str) -> timedelta | None:
    """Read a duration such as `8h`, `1d`, `1h30m` or `45s`; None where the text is none, or is zero."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    amounts = zip(UNITS.values(), match.groups(), strict=True)
    length = timedelta(**{unit: int(amount) for unit, amount in amounts if amount})
    return length if length > timedelta(0) else None


def resolve_deadline(text: str, now: datetime) -> datetime:
    """Return the instant, in UTC, that a deadline means at `now` (aware).

    A time of day is the next such time after `now`. Where the clock goes back and shows it twice, either
    counts; a time that the clock jumps over is as far after the jump as it would have been without it. An
    instant may be past: then the deadline has been missed, which is for the run to say. Raises DeadlineError.
    """
    try:
        return _resolved(text, now)
    except OverflowError:
        raise DeadlineError(f"deadline {text!r} is out of the calendar; {HOW}") from None


def _resolved(text: str, now: datetime) -> datetime:
    ahead = duration(text)
    if ahead is not None:
        return (now + ahead).astimezone(UTC)
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        return _next(*_time_of_day(text, clock), now)
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DeadlineError(f"{text!r} is no deadline; {HOW}") from None
    if instant.tzinfo is None:
        raise DeadlineError(f"deadline {text!r} says no time zone; {HOW}")
    return instant.astimezone(UTC)


def _time_of_day(text: str, clock: re.Match[str]) -> tuple[time, ZoneInfo]:
    if clock[4] is None:
        raise DeadlineError(f"deadline {text!r} says no time zone; {HOW}")
    try:
        return time(int(clock[1]), int(clock[2]), int(clock[3] or 0)), ZoneInfo(clock[4])
    except ValueError:
        raise DeadlineError(f"{text!r} is no time of day; {HOW}") from None
    except (
        KeyError,
        OSError,
    ):  # ZoneInfoNotFoundError is a KeyError; a folder's name gives IsADirectoryError
        raise DeadlineError(f"no time zone called {clock[4]!r}; {HOW}") from None


def _next(at: time, zone: ZoneInfo, now: datetime) -> datetime:
    today = now.astimezone(zone).date()
    instants: list[datetime] = []
    for days in (-1, 0, 1, 2):  # a jump at midnight moves a time to the day before or after
        wall = datetime.combine(today + timedelta(days=days), at)
        early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        instants += (
            [early, late] if early < late else [early]
        )  # late is the earlier one where the clock jumps over `wall`
    return min(instant for instant in instants if instant > now)
