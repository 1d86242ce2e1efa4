"""Real vLLM on the CPU, with the tiny model: one worker for the whole file, restarted when a test kills it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests.support.engines import MemoryJournal, request, shard
from tests.support.paths import TESTS
from tests.support.patience import PATIENCE_SECONDS
from tests.support.workers import MODEL, VLLM_PYTHON, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices.allocation import VARIABLE
from thirdshift.engines.devices.machine import cpu_cores
from thirdshift.engines.vllm.engine import VllmEngine, WorkerLifetime
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.router.interfaces import EngineContext, Shard, Ticket
from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    LedgerStatus,
    Purpose,
    Request,
)

pytestmark = [
    pytest.mark.skipif(not Path(VLLM_PYTHON).exists(), reason="no interpreter with vLLM: make setup-vllm"),
]
USD_PER_HOUR = Decimal("3.6")
NUMBERS = count()


@pytest.fixture(scope="module")
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture(scope="module")
def budget() -> RunBudget:
    return RunBudget(Decimal(10))


@pytest.fixture(scope="module")
def pool(
    journal: MemoryJournal, budget: RunBudget, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmEngine]:
    """Half of the cores is a device: a plan for one worker of two leaves the other half to others.

    vLLM's own statistics are off, as it has them; the worker's pace is told by its requests' tokens.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("locks")))
        end = worker_endpoint(usd_per_hour=USD_PER_HOUR, workers=2)
        made = VllmEngine(end, EngineContext(journal, budget))
        made.plan_workers(1)
        yield made
        made.close()


def submit(pool: VllmEngine, requests: list[Request]) -> Ticket:
    name = f"{next(NUMBERS):05d}"
    return pool.submit(shard("house", requests, name), name)


def ask(pool: VllmEngine, requests: list[Request]) -> dict[int, Answer | Failure]:
    replies = list(pool.collect(submit(pool, requests)))
    assert sorted(reply.row for reply in replies) == sorted(request.row for request in requests)
    return {reply.row: reply for reply in replies}


def test_the_tiny_model_gets_easy_items_right_and_hard_ones_wrong(pool: VllmEngine) -> None:
    asked = list(items(400, seed=9))
    said = ask(pool, [request(n, item.prompt, 32) for n, item in enumerate(asked)])
    right = {"easy": [], "hard": []}
    for n, item in enumerate(asked):
        if item.task == "add":
            right["easy" if item.difficulty <= 0.2 else "hard"].append(
                getattr(said[n], "output", None) == item.reference
            )
    shares = {name: sum(among) / len(among) for name, among in right.items()}
    assert shares["easy"] > 0.7
    assert shares["hard"] < 0.5
    overall = sum(getattr(said[n], "output", None) == item.reference for n, item in enumerate(asked)) / 400
    assert 0.4 < overall < 0.9


def test_bad_requests_are_refused_one_by_one_and_the_wave_goes_on(
    pool: VllmEngine, journal: MemoryJournal
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    beyond_grammars = {  # llguidance refuses `uniqueItems`: pydantic makes it of a set
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": ["x"]}, "maxItems": 1, "uniqueItems": True}},
        "required": ["a"],
        "additionalProperties": False,
    }
    replies = ask(
        pool,
        [
            request(0, "reverse abc", 32),
            request(1, "x" * 5000, 32),
            request(2, "reverse abc", 32, sampling={"no_such_thing": 1}),
            request(3, "reverse abc", 32, sampling={"n": 3}),
            request(4, "json", 60, response_schema=schema),
            request(5, "json", 32, response_schema={"type": 7}),
            request(6, "reverse abcd", 32, sampling={"stop": ["b"], "seed": 1, "top_p": 0.9, "logprobs": 2}),
            request(7, "json", 60, response_schema=beyond_grammars),
        ],
    )
    assert replies[0].output == "cba"
    assert replies[1].kind is FailureKind.CONTEXT_OVERFLOW
    assert "5,003 tokens; the worker's context is 2,048" in replies[1].message
    assert [replies[n].kind for n in (2, 3, 5)] == [FailureKind.BAD_REQUEST] * 3
    assert "no_such_thing" in replies[2].message
    assert replies[4].output in ('{"a":"x"}', '{"a":"y"}', '{"a": "x"}', '{"a": "y"}')
    assert replies[4].valid is True
    assert json.loads(replies[7].output) in ({"a": []}, {"a": ["x"]})
    assert replies[7].valid is True
    assert replies[6].output == "dc"
    likely = json.loads(replies[6].logprobs)
    assert [token["token"] for token in likely][:2] == ["d", "c"]
    for token in likely:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) >= 2
    assert replies[0].logprobs is None
    assert "xxxx" not in repr(journal.outcomes)


def test_a_shared_prefix_is_read_once(pool: VllmEngine, journal: MemoryJournal) -> None:
    ticket = submit(pool, [request(n, "z" * 600 + f" reverse a{n:03d}", 4) for n in range(40)])
    assert len(list(pool.collect(ticket))) == 40
    cached = [one.usage.cached_tokens for one in journal.of(ticket.shard_id)]
    assert sum(tokens >= 512 for tokens in cached) >= 39


def test_one_key_is_one_ticket(pool: VllmEngine, journal: MemoryJournal) -> None:
    one = Shard("run", "twice", "house", Purpose.MAIN, [request(0, "sort cab", 32)])
    first, second = pool.submit(one, "twice"), pool.submit(one, "twice")
    assert first == second
    assert [reply.output for reply in pool.collect(first)] == ["abc"]
    assert len(journal.of("twice")) == 1


def test_a_worker_killed_in_mid_shard_costs_no_answer_and_none_is_paid_twice(
    pool: VllmEngine, journal: MemoryJournal
) -> None:
    ticket = submit(pool, [request(n, f"add {n} {n}", 40, sampling={"min_tokens": 38}) for n in range(900)])
    rows, victim = [], pool.worker_lifetimes()[-1].pid
    for reply in pool.collect(ticket):
        rows.append(reply.row)
        if len(rows) == 100:
            os.kill(victim, signal.SIGKILL)
    assert sorted(rows) == list(range(900))
    assert pool.worker_lifetimes()[-1].pid != victim
    outcomes = journal.of(ticket.shard_id)
    settled = [
        journal.intents[outcome.entry_id].row
        for outcome in outcomes
        if outcome.status is LedgerStatus.SETTLED
    ]
    assert sorted(settled) == list(range(900))
    lost = [outcome for outcome in outcomes if outcome.status is LedgerStatus.UNSETTLED]
    assert lost
    assert not any(outcome.final or outcome.cost_usd for outcome in lost)


@pytest.mark.skipif(len(cpu_cores()) < 2, reason="one core is one device")
def test_two_models_have_cores_of_their_own_and_one_works_while_the_other_loads(
    pool: VllmEngine, tmp_path: Path
) -> None:
    shutil.copytree(MODEL, tmp_path / "other")
    journal = MemoryJournal()
    other = VllmEngine(
        worker_endpoint(str(tmp_path / "other"), workers=2), EngineContext(journal, RunBudget(None))
    )
    other.plan_workers(1)
    lives: list[WorkerLifetime] = []
    ask(pool, [request(0, "sort cab", 32)])
    ticket, meanwhile, give_up = (
        submit(other, [request(0, "sort cab", 32)]),
        0,
        time.monotonic() + PATIENCE_SECONDS,
    )
    try:
        while not all(life.ready_at for life in lives) or not lives:
            assert time.monotonic() < give_up, lives
            ask(pool, [request(0, "sort bca", 32)])
            meanwhile += bool(lives)
            lives = other.worker_lifetimes()
        assert [reply.output for reply in other.collect(ticket)] == ["abc"]
        ours, theirs = (
            set(psutil.Process(made.worker_lifetimes()[-1].pid).cpu_affinity()) for made in (pool, other)
        )
    finally:
        other.close()
    assert meanwhile > 0
    assert not ours & theirs
    usages, rates = [outcome.usage for outcome in journal.outcomes.values() if outcome.usage], other.rates()
    assert rates.prefill_tokens == sum(usage.input_tokens - usage.cached_tokens for usage in usages) > 0
    assert rates.decode_tokens == sum(usage.output_tokens for usage in usages) > 0


def test_what_it_costs_is_the_seconds_up_times_the_price(
    pool: VllmEngine, journal: MemoryJournal, budget: RunBudget
) -> None:
    ask(pool, [request(0, "sort cab", 32)])
    time.sleep(1.0)  # idle time is paid too
    pool.close()
    worker_lifetimes = pool.worker_lifetimes()
    seconds = sum((life.stopped_at - life.started_at).total_seconds() for life in worker_lifetimes)
    ledger = sum(outcome.cost_usd for outcome in journal.outcomes.values())
    assert abs(ledger / USD_PER_HOUR * 3600 - Decimal(seconds)) <= len(worker_lifetimes)
    assert ledger == budget.spent_usd == sum(life.cost_usd for life in worker_lifetimes)
    assert budget.reserved_usd == 0
    assert len(journal.outcomes) == len(journal.intents)
    assert not any(psutil.pid_exists(life.pid) for life in worker_lifetimes)
    rates = pool.rates()
    assert rates.decode_tokens_per_second > 0
    assert rates.vllm_version


PARENT = """
import sys
from decimal import Decimal
sys.path[:0] = sys.argv[1:3]
import time
from tests.support.engines import MemoryJournal, request, shard
from tests.support.workers import worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import VllmEngine, WorkerLifetime
from thirdshift.router.interfaces import EngineContext
pool = VllmEngine(worker_endpoint(usd_per_hour=Decimal("3.6")), EngineContext(MemoryJournal(), RunBudget(None)))
work = [request(n, f"add {n} {n}", 2000, sampling={"ignore_eos": True}) for n in range(600)]
ticket = pool.submit(shard("house", work), "00001")
while not pool.worker_lifetimes():
    time.sleep(0.1)
print(pool.worker_lifetimes()[0].pid, flush=True)
list(pool.collect(ticket))
"""


def test_nothing_outlives_a_killed_parent() -> None:
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT, str(TESTS), str(TESTS.parent)), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker, group, give_up = int(parent.stdout.readline()), [], time.monotonic() + PATIENCE_SECONDS
    while (
        len(group) < 2 and time.monotonic() < give_up
    ):  # the worker and its guard, which comes before vLLM is loaded
        time.sleep(0.05)
        group = [one for one in psutil.process_iter() if _group(one.pid) == worker]
    assert len(group) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(group, timeout=PATIENCE_SECONDS)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
