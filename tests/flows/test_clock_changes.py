"""Nights whose time of day does not exist where clocks are put forward."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas.schedules import CronSchedule as Dates

from thirdshift.flows.cli.serve import Schedule, check_dates
from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration.clock_changes import EarlyNight, early_night

WINTER = datetime(2026, 1, 15, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "timezone", "missing", "begins"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:30"),
        ("0 2 * * *", "America/New_York", "2026-03-08T02:00", "2026-03-08T01:00"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-04T01:45"),  # by half an hour
        ("0 0 * * *", "Africa/Cairo", "2026-04-24T00:00", "2026-04-23T23:00"),
        ("0 0 * * fri", "Africa/Cairo", "2026-04-24T00:00", "2026-04-23T23:00"),
    ],
)
def test_a_night_at_an_hour_that_its_day_does_not_have_is_told_as_prefect_begins_it(
    cron: str, timezone: str, missing: str, begins: str
) -> None:
    zone = ZoneInfo(timezone)
    early = early_night(CronSchedule(cron=cron, timezone=timezone), WINTER)
    told = datetime.fromisoformat(begins).replace(tzinfo=zone)
    (begun,) = asyncio.run(Dates(cron=cron, timezone=timezone).get_dates(1, start=told - timedelta(hours=6)))
    if begun == told:
        assert early is not None
        assert (early.missing, early.begins) == (datetime.fromisoformat(missing), told)
        assert early.day_before is (timezone == "Africa/Cairo")
    else:  # Prefect 3.9 begins it by as much too late
        assert early is None
        assert begun.astimezone(zone).date() == datetime.fromisoformat(missing).date()


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("0 22 * * *", "Europe/Berlin"),
        ("0 3 * * *", "Europe/Berlin"),
        ("0 * * * *", "Europe/Berlin"),  # the hour before has a night of its own
        ("30 1,2 * * *", "Europe/Berlin"),
        ("0 2 1 * *", "Europe/Berlin"),
        ("0 0 * * mon-thu", "Africa/Cairo"),
        ("30 2 * * *", "UTC"),
        ("30 2 * * *", "Asia/Tokyo"),
    ],
)
def test_other_nights_are_not_told(cron: str, timezone: str) -> None:
    assert early_night(CronSchedule(cron=cron, timezone=timezone), WINTER) is None


def test_an_hour_that_would_give_one_date_to_two_nights_is_refused() -> None:
    at_midnight, at_night = Schedule("0 0 * * *", "Africa/Cairo"), Schedule("30 2 * * *", "Europe/Berlin")
    day_before = EarlyNight(
        datetime.fromisoformat("2026-04-24"), datetime(2026, 4, 23, 23, tzinfo=ZoneInfo("Africa/Cairo"))
    )
    same_day = EarlyNight(
        datetime.fromisoformat("2026-03-29T02:30"),
        datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    )
    with pytest.raises(
        UserError, match=r"there is no 00:00 .* at 23:00 the day before, whose date it is given"
    ):
        check_dates(day_before, {"ds": "{date}"}, at_midnight)
    check_dates(day_before, {"ds": "x"}, at_midnight)
    check_dates(same_day, {"ds": "{date}"}, at_night)
    check_dates(None, {"ds": "{date}"}, at_night)
