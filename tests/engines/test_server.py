"""Servers of the user's: `up`, `health` and `down` with a small real server on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from tests.support.engines import MemoryJournal, requests, shard
from tests.support.paths import TESTS
from tests.support.patience import PATIENCE_SECONDS
from tests.support.user_server import USD_PER_HOUR, answered, server_endpoint, server_engine
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.server.engine import ServerEngine
from thirdshift.engines.server.process import ServerProcess
from thirdshift.flows.errors import JobError
from thirdshift.flows.jobs.job import load_job
from thirdshift.router.planning.market import offers
from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    Purpose,
)


def test_a_server_is_started_waited_for_paid_by_the_hour_and_taken_down(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(10))
    engine = server_engine(server_endpoint(tmp_path), journal, budget)
    assert all(
        isinstance(one, Answer) and one.output == "fine"
        for one in answered(engine, shard("theirs", requests(3)))
    )
    assert len(answered(engine, shard("theirs", requests(2), "00002"))) == 2  # the same server
    assert not (tmp_path / "downs").exists()
    engine.close()
    engine.close()
    (life,) = engine.worker_lifetimes()
    assert (tmp_path / "downs").read_text() == "down\n"
    assert not psutil.pid_exists(life.pid)
    assert life.ready_at is not None
    assert life.stopped_at is not None
    overhead = [
        one for one in journal.outcomes.values() if journal.intents[one.entry_id].purpose is Purpose.OVERHEAD
    ]
    paid = sum(one.cost_usd for one in overhead)
    assert paid == life.cost_usd == budget.spent_usd
    seconds = (life.stopped_at - life.started_at).total_seconds()
    assert abs(float(paid / USD_PER_HOUR * 3600) - seconds) < 1
    assert budget.reserved_usd == 0
    rates = engine.rates()
    assert rates is not None
    assert (rates.prefill_tokens, rates.decode_tokens, rates.hardware) == (25, 5, engine.endpoint.api_base)
    assert 0.5 <= rates.startup_seconds <= seconds


@pytest.mark.parametrize(
    ("up", "words"),
    [
        ("echo no such image; exit 3", ("its `up` ended with status 3", "no such image", "mend the command")),
        ("echo pending; sleep 60", ("did not answer at http://127.0.0.1", "within 1 s", "pending")),
    ],
)
def test_a_server_that_does_not_come_up_is_told_with_its_last_words_and_taken_down(
    tmp_path: Path, up: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ServerProcess.start

    def start_and_wait_for_output(server: ServerProcess) -> None:
        start(server)
        while server.last_lines() == "(nothing was printed)":  # on a busy machine a shell takes its time
            time.sleep(0.01)

    if "sleep" in up:
        monkeypatch.setattr(ServerProcess, "start", start_and_wait_for_output)
    journal, budget = MemoryJournal(), RunBudget(Decimal(10))
    engine = server_engine(server_endpoint(tmp_path, up), journal, budget, startup_seconds=1.0)
    for reply in answered(engine, shard("theirs", requests(3))):
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.WORKER_DIED
        assert all(word in reply.message for word in words), reply.message
    engine.close()
    assert (tmp_path / "downs").read_text() == "down\n"
    assert len(journal.outcomes) == len(journal.intents)
    assert budget.reserved_usd == 0


def test_without_money_for_its_time_no_server_is_started(tmp_path: Path) -> None:
    engine = server_engine(server_endpoint(tmp_path), MemoryJournal(), RunBudget(Decimal("0.01")))
    assert {
        reply.kind for reply in answered(engine, shard("theirs", requests(3))) if isinstance(reply, Failure)
    } == {FailureKind.BUDGET}
    engine.close()
    assert engine.worker_lifetimes() == []
    assert not (tmp_path / "downs").exists()


def waiting_for_money(
    folder: Path, deadline: datetime | None
) -> tuple[ServerEngine, Future[set[FailureKind]]]:
    """A batch in flight holds the cap; and the failures that a shard ends in meanwhile."""
    budget = RunBudget(Decimal(1))
    assert budget.reserve(Decimal("0.9999"))
    engine = server_engine(server_endpoint(folder), MemoryJournal(), budget)
    engine.engine_context = replace(engine.engine_context, deadline=deadline)
    ended: Future[set[FailureKind]] = Future()

    def wait() -> None:
        ended.set_result(
            {
                reply.kind
                for reply in answered(engine, shard("theirs", requests(3)))
                if isinstance(reply, Failure)
            }
        )

    threading.Thread(target=wait, daemon=True).start()
    while engine._thread is None:
        time.sleep(0.01)
    return engine, ended


@pytest.mark.parametrize("end", [ServerEngine.stop, ServerEngine.close])
def test_a_server_that_waits_for_money_is_waited_for_no_longer_than_the_night(
    tmp_path: Path, end: Callable[[ServerEngine], None]
) -> None:
    engine, ended = waiting_for_money(tmp_path, None)
    for each in (end, ServerEngine.close):
        ending = threading.Thread(target=each, args=(engine,), daemon=True)
        ending.start()
        ending.join(5)
        assert not ending.is_alive()
        assert ended.result(5) == {FailureKind.CANCELLED}
    assert engine.worker_lifetimes() == []


def test_the_deadline_ends_the_waiting_for_money(tmp_path: Path) -> None:
    engine, ended = waiting_for_money(tmp_path, datetime.now(UTC) + timedelta(seconds=0.2))
    assert ended.result(5) == {FailureKind.DEADLINE}
    engine.close()
    assert engine.worker_lifetimes() == []


PARENT = """
import sys
from decimal import Decimal
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from tests.support.engines import MemoryJournal, requests, shard
from tests.support.user_server import answered, server_endpoint, server_engine
from thirdshift.engines.core.budget import RunBudget
engine = server_engine(server_endpoint(Path(sys.argv[3])), MemoryJournal(), RunBudget(None))
answered(engine, shard("theirs", requests(3)))
print(engine.worker_lifetimes()[0].pid, flush=True)
sys.stdin.read()
"""


def test_a_server_is_taken_down_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT, str(TESTS), str(TESTS.parent), str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (psutil.pid_exists(pid) or not (tmp_path / "downs").exists()) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert (tmp_path / "downs").read_text() == "down\n"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_paid_by_the_hour_has_a_fixed_charge_in_the_plan(tmp_path: Path) -> None:
    (offer,) = offers([server_endpoint(tmp_path)], datetime.now(UTC), None)
    assert offer.option.workers is not None
    assert (offer.option.workers.max_workers, offer.option.workers.usd_per_hour) == (1, 36.0)
    assert offer.option.workers.startup_seconds > 0


def test_what_makes_no_server_is_told_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: a\ninput: x.parquet\nendpoints:\n"
        "  - {name: a, model: openai/m, up: run me, down: stop me}\n"
        "  - {name: b, model: openai/m, api_base: 'http://h/v1', usd_per_hour: 1, price: {input: 1, output: 1}}\n"
        "  - {name: c, model: openai/m, api_base: 'http://h/v1', usd_per_hour: 1, health: ping me, down: stop me}\n"
    )
    with pytest.raises(JobError) as raised:
        load_job(tmp_path / "job.yaml", environ=None)
    text = str(raised.value)
    for words in (
        "is of a server that has an api_base",
        "by the hour; state one",
        "is a URL",
        "what `up` starts",
    ):
        assert words in text
