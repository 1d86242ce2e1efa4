#!/bin/sh
# "30 2 * * *" in Europe/Berlin on the two nights on which clocks change. Guess: one night each, as cron itself has it: in
# spring as soon as there is a time again, in autumn once. In spring it begins at 01:30 (Prefect 3.8 on Python 3.11: too early), 03:00
# (croniter 7.0, cronsim 2.8) or 03:30 (APScheduler 3.11, Prefect 3.9). In autumn croniter and APScheduler begin it twice: the
# night is paid twice. Where midnight is skipped (Cairo) Prefect 3.8 begins on the day before, whose date the flow then sees
# twice, and its own never. Ours says which night begins too early (flows/orchestration/clock_changes.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "croniter==7.0.0" "apscheduler==3.11.3" "cronsim==2.8" "prefect==3.8.8"
cat >"$place/found.py" <<'PY'
import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import prefect
from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim
from prefect.server.schemas.schedules import CronSchedule


def by_prefect(cron, zone, start):
    return asyncio.run(CronSchedule(cron=cron, timezone=zone.key).get_dates(2, start=start))


def by_croniter(cron, zone, start):
    times = croniter(cron, start)
    return [times.get_next(datetime), times.get_next(datetime)]


def by_cronsim(cron, zone, start):
    times = CronSim(cron, start)
    return [next(times), next(times)]


def by_apscheduler(cron, zone, start):
    trigger = CronTrigger.from_crontab(cron, timezone=zone)
    first = trigger.get_next_fire_time(None, start)
    return [first, trigger.get_next_fire_time(first, first)]


def begins(times_of, day, cron="30 2 * * *", zone="Europe/Berlin"):
    zone = ZoneInfo(zone)
    times = times_of(cron, zone, datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=zone))
    return " ".join(time.astimezone(UTC).astimezone(zone).strftime("%dT%H:%M%z") for time in times)


early, at_3, late = (f"29T{time}0 30T02:30+0200" for time in ("01:30+010", "03:00+020", "03:30+020"))
once, twice = "25T02:30+0200 26T02:30+0100", "25T02:30+0200 25T02:30+0100"
old = prefect.__version__.startswith("3.8")
expected = {
    by_prefect: (early if old else late, once),
    by_croniter: (at_3, twice),
    by_cronsim: (at_3, once),
    by_apscheduler: (late, twice),
}
for times_of, wanted in expected.items():
    found = begins(times_of, "2026-03-28"), begins(times_of, "2026-10-24")
    assert found == wanted, (times_of.__name__, found)
    print("as found,", times_of.__name__, prefect.__version__ if times_of is by_prefect else "", *found)
cairo = begins(by_prefect, "2026-04-23", "0 0 * * *", "Africa/Cairo")
assert cairo == ("23T23:00+0200 25T00:00+0300" if old else "24T01:00+0300 25T00:00+0300"), cairo
print("as found, Prefect at midnight in Cairo:", cairo)
PY
"$place/venv/bin/python" "$place/found.py"
"$place/venv/bin/pip" install --quiet "prefect==3.9.1"
"$place/venv/bin/python" "$place/found.py"
