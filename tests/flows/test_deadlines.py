"""Deadlines: the next such time, across clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.flows.errors import DeadlineError
from thirdshift.flows.jobs.deadlines import duration, resolve_deadline

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("06:00 Europe/Berlin", "2026-11-22T20:00+00:00", "2026-11-23T05:00+00:00"),
        ("06:00 Europe/Berlin", "2026-11-23T04:59+00:00", "2026-11-23T05:00+00:00"),
        ("06:00 Europe/Berlin", "2026-11-23T05:00+00:00", "2026-11-24T05:00+00:00"),
        ("6:00 UTC", "2026-11-22T05:59:59+00:00", "2026-11-22T06:00+00:00"),
        # summer time begins on 2026-03-29: from 02:00 to 03:00 there is no time
        ("06:00 Europe/Berlin", "2026-03-28T20:00+00:00", "2026-03-29T04:00+00:00"),
        ("02:30 Europe/Berlin", "2026-03-28T20:00+00:00", "2026-03-29T01:30+00:00"),
        # and ends on 2026-10-25: from 02:00 to 03:00 comes twice
        ("02:30 Europe/Berlin", "2026-10-24T20:00+00:00", "2026-10-25T00:30+00:00"),
        ("02:30 Europe/Berlin", "2026-10-25T00:30+00:00", "2026-10-25T01:30+00:00"),
        ("02:30 Europe/Berlin", "2026-10-25T01:30+00:00", "2026-10-26T01:30+00:00"),
        # ahead of and behind UTC by half a day
        ("00:30 Pacific/Auckland", "2026-11-22T11:00+00:00", "2026-11-22T11:30+00:00"),
        ("23:30 Pacific/Honolulu", "2026-11-22T09:00+00:00", "2026-11-22T09:30+00:00"),
        ("8h", "2026-11-22T20:00+00:00", "2026-11-23T04:00+00:00"),
        ("1d2h30m", "2026-11-22T20:00+00:00", "2026-11-23T22:30+00:00"),
        ("2026-11-23T06:00:00+01:00", "2026-11-22T20:00+00:00", "2026-11-23T05:00+00:00"),
        ("2026-11-21T06:00:00Z", "2026-11-22T20:00+00:00", "2026-11-21T06:00+00:00"),
    ],
)
def test_a_deadline_is_the_instant_that_people_mean(text: str, now: str, expected: str) -> None:
    found = resolve_deadline(text, datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(expected)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["", "soon", "8", "0h", "6am UTC", "06:60 UTC", "24:00 UTC", "2026-11-23", "9" * 99]
)
def test_what_is_no_deadline_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(DeadlineError, match="06:00 Europe/Berlin"):
        resolve_deadline(text, datetime(2026, 11, 22, tzinfo=UTC))


INSTANTS = st.integers(1_577_836_800, 2_051_222_400).map(lambda s: datetime.fromtimestamp(s, UTC))
"""From 2020 to 2034."""
ZONES = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"]
)


@given(now=INSTANTS, hour=st.integers(0, 23), minute=st.integers(0, 59), zone=ZONES)
def test_a_time_of_day_is_ahead_within_a_day_and_what_the_clock_shows(
    now: datetime, hour: int, minute: int, zone: str
) -> None:
    found = resolve_deadline(f"{hour:02}:{minute:02} {zone}", now)
    assert timedelta(0) < found - now <= timedelta(hours=25)
    wall = found.astimezone(ZoneInfo(zone))
    jumped = found - timedelta(hours=2) if (wall.hour, wall.minute) != (hour, minute) else None
    if jumped is not None:  # the clock jumped over that time: the offset has just changed
        assert jumped.astimezone(ZoneInfo(zone)).utcoffset() != wall.utcoffset()


@given(days=st.integers(0, 99), hours=st.integers(0, 99), minutes=st.integers(0, 99))
def test_a_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int) -> None:
    length = timedelta(days=days, hours=hours, minutes=minutes)
    assert duration(f"{days}d{hours}h{minutes}m") == (length or None)
