"""Nights whose time of day does not exist where clocks are put forward: Prefect 3.8 begins them by as much too early."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule

AHEAD_DAYS = 400
"""Clocks are put forward once a year at most."""
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class EarlyNight:
    """A night that begins before its time, because there is no such time on its day."""

    missing: datetime
    """As the schedule says it, without a time zone."""
    begins: datetime

    @property
    def day_before(self) -> bool:
        """Whether it begins on the day before, whose date it is then given."""
        return self.begins.date() < self.missing.date()

    def __str__(self) -> str:
        return (
            f"on {self.missing:%Y-%m-%d} there is no {self.missing:%H:%M} (clocks are put forward), "
            f"and that night begins at {self.begins:%H:%M}{' the day before' if self.day_before else ''}"
        )


def early_night(schedule: CronSchedule, after: datetime) -> EarlyNight | None:
    """Return the next night that Prefect begins too early; None where there is none in the next year."""
    zone = ZoneInfo(schedule.timezone or "UTC")
    for change, gap in _put_forward(zone, after):
        last = (change - MINUTE).astimezone(zone).replace(tzinfo=None)
        skipped = last + MINUTE
        missing = _first(schedule.cron, "UTC", skipped.replace(tzinfo=UTC))
        if missing is None or missing >= skipped.replace(tzinfo=UTC) + gap:
            continue
        begins = _first(schedule.cron, zone.key, change - gap)
        if begins is None or begins >= change:
            continue
        begins = begins.astimezone(zone)
        wall = begins.replace(tzinfo=UTC)
        if _first(schedule.cron, "UTC", wall) != wall:  # else the schedule has both times
            return EarlyNight(missing.replace(tzinfo=None), begins)
    return None


def _put_forward(zone: ZoneInfo, after: datetime) -> list[tuple[datetime, timedelta]]:
    """When clocks are put forward, and by how much."""
    start = datetime.combine(after.astimezone(UTC).date(), datetime.min.time(), UTC)
    changes = []
    for day in range(AHEAD_DAYS):
        moment = start + day * DAY
        before = _offset(zone, moment)
        if (gap := _offset(zone, moment + DAY) - before) > timedelta(0):
            while _offset(zone, moment) == before:
                moment += MINUTE
            changes.append((moment, gap))
    return changes


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _first(cron: str, timezone: str, start: datetime) -> datetime | None:
    """The first time of a cron line from `start` on, as Prefect reckons it."""
    from prefect.server.schemas.schedules import CronSchedule as Dates

    dates = asyncio.run(Dates(cron=cron, timezone=timezone).get_dates(1, start=start))
    return dates[0] if dates else None
