"""What of local workers needs no vLLM: order, money, rates, what is found and what is refused beforehand."""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import MemoryJournal, request, shard
from tests.support.meters import metered, work
from tests.support.paths import TESTS
from tests.support.workers import MODEL, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices import Device, Machine, hardware
from thirdshift.engines.metered.idle import IDLE_SECONDS, SHORT_BREAK_SECONDS, NextWork, idle_seconds
from thirdshift.engines.metered.ordering import BLOCK, arrange
from thirdshift.engines.metered.throughput import PLATEAU, FullBatch, PaceWatch, Rates, Speedometer
from thirdshift.engines.vllm.engine import VllmEngine, check
from thirdshift.engines.vllm.preflight import oversized
from thirdshift.flows.planning.measured.throughput import Measured, known_paces, throughput_of_run
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.planning.options import Throughput
from thirdshift.router.values import (
    Failure,
    FailureKind,
)
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.store import Warehouse

NOTHING_HERE = Machine((), (), (0, 1))


# --- order ---


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.integers(1, 9)), max_size=40))
def test_arranging_loses_and_invents_nothing(drawn: list[tuple[str, int, int]]) -> None:
    requests = [request(row, letter * length, most) for row, (letter, length, most) in enumerate(drawn)]
    assert sorted(one.row for one in arrange(requests)) == list(range(len(requests)))


def test_shared_prefixes_stand_side_by_side_and_long_ones_first() -> None:
    beginnings = [letter * 3 * BLOCK for letter in "abcd"]
    requests = [request(n, beginnings[n % 4] + f"{n:05d}", 10 + n % 4) for n in range(80)]
    random.Random(1).shuffle(requests)
    rows = [one.row % 4 for one in arrange(requests)]
    assert rows == [3] * 20 + [2] * 20 + [1] * 20 + [0] * 20


def test_without_shared_prefixes_the_longest_work_comes_first() -> None:
    requests = [request(n, f"{n:03d}" + "x" * n, 16) for n in range(50)]
    assert [one.row for one in arrange(requests)] == list(range(49, -1, -1))


# --- money ---


@given(
    st.decimals(Decimal("0.01"), Decimal(100), places=2),
    st.one_of(st.none(), st.decimals(Decimal("0.001"), Decimal(2), places=3)),
    st.lists(st.tuples(st.floats(0.001, 2.5), st.lists(st.floats(0.1, 50), max_size=3)), max_size=60),
    st.sampled_from([0.0, 65.0, 90.0]),
)
def test_seconds_are_paid_once_and_the_cap_holds_even_if_killed(
    usd_per_hour: Decimal, cap: Decimal | None, stretches: list[tuple[float, list[float]]], minimum: float
) -> None:
    meter, journal, budget, clock = metered(usd_per_hour, cap, minimum_seconds=minimum)
    began = clock.now

    def wait(seconds: float) -> None:
        clock.now += seconds

    answers = work(meter, journal, budget, cap, stretches, wait)
    meter.stop()
    paid = answers + journal.cost
    assert paid == meter.cost_usd == budget.spent_usd
    assert budget.reserved_usd == 0
    lived = max(clock.now - began, minimum if journal.intents else 0.0)
    assert abs(paid - usd_per_hour / 3600 * Decimal(lived)) <= Decimal("1e-9") * (len(stretches) + 2)


def test_a_long_start_fits_a_cap_of_its_seconds_and_two_leases() -> None:
    meter, _, budget, clock = metered(Decimal(36), Decimal("3.20"))
    for _ in range(100):
        assert meter.keep_up()
        clock.now += 2
        meter.idle()  # as who drives it does while the worker starts
    assert budget.spent_usd + budget.reserved_usd <= Decimal("3.20")


def test_a_minimum_rental_is_reserved_once_and_answers_come_off_it() -> None:
    meter, journal, budget, clock = metered(Decimal(36), Decimal(6), minimum_seconds=600)
    assert meter.keep_up()
    answers = Decimal(0)
    for _ in range(50):
        clock.now += 7
        answers += sum(meter.charge([1, 2]))
        assert journal.worst_usd() + answers <= Decimal(6)
        assert budget.spent_usd + budget.reserved_usd <= Decimal(6)
    meter.stop()
    assert answers + journal.cost == Decimal(6)


def test_a_minimum_rental_is_paid_in_full() -> None:
    meter, journal, _, clock = metered(Decimal(36), None, minimum_seconds=600)
    assert meter.keep_up()
    clock.now += 30
    meter.stop()
    assert journal.cost == Decimal(6)


# --- rates ---


def test_rates_are_told_apart_where_the_work_differs() -> None:
    speed, rng = Speedometer(), random.Random(4)
    for _ in range(50):
        read, written = rng.randint(0, 4000), rng.randint(0, 400)
        speed.add(read / 5000 + written / 250, read, written)
    rates = speed.rates("0.32.0", "cpu")
    assert rates.measured
    assert rates.prefill_tokens_per_second == pytest.approx(5000)
    assert rates.decode_tokens_per_second == pytest.approx(250)


def test_rates_of_uniform_work_still_tell_how_long_it_takes() -> None:
    speed = Speedometer()
    for _ in range(10):
        speed.add(2.0, 1000, 100)
    rates = speed.rates("0.32.0", "cpu")
    assert not rates.measured
    assert 1000 / rates.prefill_tokens_per_second + 100 / rates.decode_tokens_per_second == pytest.approx(2.0)


def test_an_engine_is_full_near_its_most_or_where_others_wait_as_many_as_it_holds() -> None:
    watch = FullBatch(100)
    assert [watch.told(running, 50) for running in (20, 60, 79, 80, 100)] == [False, False, False, True, True]
    held = FullBatch(100)
    assert [held.told(30, 50) for _ in range(PLATEAU)] == [False] * (PLATEAU - 1) + [True]
    assert not held.told(30, 0), "nobody waits: the work is at its end"


def engine_told(most: int, batches: list[tuple[int, int]], step: float) -> Speedometer:
    """What is measured of an engine whose step takes `step` and 20 µs a request: requests at once and steps, each told."""
    speed = Speedometer()
    watch, worked, steps, written, read = PaceWatch(speed, most), 0.0, 0, 0, 0
    for n, (running, more) in enumerate(batches):
        worked += more * (step + running * 20e-6) + 1000 * (n % 3) * 10e-6
        steps, written, read = steps + more, written + more * running, read + 1000 * (n % 3)
        watch.told(
            {
                "worked": worked, "steps": steps, "running": running, "waiting": 0,
                "output_tokens": written, "input_tokens": read, "cached_tokens": 0,
            }
        )  # fmt: skip
    return speed


def test_a_token_takes_what_it_does_with_the_most_requests_at_once_that_were_seen() -> None:
    batches = [(n, 60) for n in (40, 30, 20, 10, 5)]
    before = engine_told(512, batches, 0.016).rates("0.32.0", "cuda")
    assert not before.full, "at 40 of 512 most of a step is its own time"
    told = engine_told(512, [*batches, (250, 50), (500, 50)], 0.016).rates("0.32.0", "cuda")
    assert told.full
    assert told.decode_tokens_per_second == pytest.approx(1 / (20e-6 + 0.016 / 500), rel=0.02)
    assert told.prefill_tokens_per_second == pytest.approx(1 / 10e-6, rel=0.02)


def test_a_batch_that_is_not_full_is_believed_where_steps_take_hardly_a_time_of_their_own() -> None:
    batches = [(n, 60) for n in (300, 280, 180, 90, 40)]
    assert engine_told(1024, batches, 0.0002).rates("0.32.0", "cuda").full
    assert not engine_told(1024, batches, 0.016).rates("0.32.0", "cuda").full


def test_several_engines_are_measured_as_one() -> None:
    whole = engine_told(512, [(500, 50), (250, 60), (30, 40)], 0.016)
    halves = [engine_told(512, [(500, 50)], 0.016), engine_told(512, [(250, 60), (30, 40)], 0.016)]
    together = Speedometer.together([*halves, Speedometer()]).rates("0.32.0", "cuda")
    assert together.decode_tokens_per_second == pytest.approx(
        whole.rates("0.32.0", "cuda").decode_tokens_per_second
    )
    assert (together.full, together.decode_tokens) == (True, whole.written)


def test_tonights_plan_believes_a_full_engine_alone() -> None:
    class Measured:
        def __init__(self, full: bool) -> None:
            self.full = full

        def rates(self) -> Rates:
            return Rates(10.0, 1.0, True, 99.0, 1, 1, "0.32.0", "cuda", full=self.full)

    believed = throughput_of_run({"house": Throughput()}, {"house": Measured(False)})["house"]
    assert believed == Throughput()
    told = throughput_of_run({"house": Throughput()}, {"house": Measured(True)})["house"]
    assert told.decode_tokens_per_second == 1.0


def test_the_next_plan_takes_the_rates_of_the_last_nights_and_says_so(tmp_path: Path) -> None:
    house = worker_endpoint(options={"max_num_seqs": 8})
    guess = known_paces([house], None)["house"]
    assert "a guess for cpu" in guess.source
    here = hardware(house.workers)
    common = {"endpoint": "house", "model": MODEL, "device": "cpu", "hardware": here, "startup_seconds": 9.0}
    nights = [
        # vLLM, tokens a second read and written, tokens read and written
        ("0.31.0", 9000.0, 900.0, 10, 10),
        ("0.32.0", 1000.0, 100.0, 3000, 300),
        ("0.32.0", 2000.0, 200.0, 2000, 200),
        ("0.32.0", 5.0, 0.0, 20, 0),
    ]
    rows = [
        {**common, "run_id": f"r{n}", "vllm": vllm, "prefill_tokens_per_second": reads}
        | {
            "decode_tokens_per_second": writes,
            "prefill_tokens": read,
            "decode_tokens": written,
            "seconds": 1.0,
        }
        | {"measured_at": datetime(2026, 11, n + 1, tzinfo=UTC)}
        for n, (vllm, reads, writes, read, written) in enumerate(nights)
    ]
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        rates.save(warehouse, pa.Table.from_pylist(rows, rates.MEASURED))
        found = known_paces([house], warehouse)["house"]
        assert "a guess" in known_paces([replace(house, model="another")], warehouse)["house"].source
    # 5,000 tokens read in 3 + 1 seconds
    assert found.throughput.prefill_tokens_per_second == pytest.approx(1250)
    assert found.throughput.decode_tokens_per_second == pytest.approx(125)
    assert found.throughput.startup_seconds == 9
    assert found.source == f"measured on {here} with vLLM 0.32.0, the last 2 nights"


def night(model: str, read: float, written: float, **more: Any) -> dict[str, Any]:
    """A row of `rates`: so many tokens a second read and written, of one second."""
    return {
        "endpoint": "house", "model": model, "device": "cpu", "vllm": "0.32.0", "startup_seconds": 9.0, "seconds": 1.0,
        "prefill_tokens_per_second": read, "decode_tokens_per_second": written, "prefill_tokens": int(read),
        "decode_tokens": int(written), "measured_at": datetime(2026, 11, 1, tzinfo=UTC), "is_full": True, **more,
    }  # fmt: skip


def test_a_measured_speed_holds_for_its_options_and_driver(tmp_path: Path) -> None:
    plain, fast = worker_endpoint(), worker_endpoint(options={"quantization": "fp8", "seed": 3})
    here = hardware(plain.workers)
    nights = [
        night(MODEL, 1000.0, 100.0, hardware=here, setting="", driver=""),
        night(MODEL, 5000.0, 500.0, hardware=here, setting='quantization="fp8"', driver="570.1"),
        night(MODEL, 7000.0, 700.0, hardware=here, setting='quantization="fp8"', driver=""),
        night(MODEL, 9000.0, 900.0, hardware=here),
    ]
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        rates.save(warehouse, pa.Table.from_pylist(nights, rates.MEASURED))
        seen = Measured(rates.known(warehouse).to_pylist())
        known = [known_paces([one], warehouse)["house"].throughput for one in (plain, fast)]
    assert [speed.decode_tokens_per_second for speed in known] == [100.0, 700.0]
    other = seen.of(MODEL, "cpu", here, 'quantization="fp8"', "580.2")
    assert other is not None, "with another driver, rather than by a guess"
    unlike = seen.of(MODEL, "cpu", here, "max_num_seqs=4", "")
    assert unlike is not None
    assert unlike["decode_tokens_per_second"] == 900.0, "of a version that wrote no options"


def test_a_night_of_thin_batches_tells_how_long_a_start_takes_and_no_speed(tmp_path: Path) -> None:
    house = worker_endpoint()
    thin = night(MODEL, 50.0, 5.0, hardware=hardware(house.workers), setting="", driver="", is_full=False)
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        rates.save(warehouse, pa.Table.from_pylist([thin | {"startup_seconds": 77.0}], rates.MEASURED))
        after = known_paces([house], warehouse)["house"]
        guess = known_paces([house], None)["house"]
    assert after.throughput == replace(guess.throughput, startup_seconds=77.0)
    assert after.source == guess.source


# --- refused beforehand ---


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"python": sys.executable}, ("has no vLLM", "make setup-vllm")),
        ({"python": "/nowhere/python"}, ("no Python at /nowhere/python", "make setup-vllm")),
        ({"model": "/nowhere/model"}, ("no model at /nowhere/model", "paths are from the job file")),
        ({"model": str(TESTS)}, ("no config.json", "save_pretrained")),
        ({"device": "cuda"}, ("no NVIDIA GPU", "device: cpu")),
        ({"device": "npu"}, ("vllm-ascend", "pip install")),
        ({"device": "tpu"}, ("'tpu'", "cuda, npu, cpu")),
        ({"options": {"data_parallel_size": 2}}, ("data_parallel_size 2", "`workers: 2`")),
        ({"options": {"max_model_len": 4096}}, ("max_model_len 4,096", "2,048")),
        ({"window": 9000}, ("context_window 9,000", "2,048")),
    ],
)
def test_what_cannot_start_is_a_sentence_with_its_remedy(
    changed: dict[str, Any], words: tuple[str, ...]
) -> None:
    problems = check(worker_endpoint(**changed), NOTHING_HERE)
    assert problems
    for word in words:
        assert any(word in problem for problem in problems), problems


def test_too_few_gpus_are_counted() -> None:
    machine = Machine((Device("cuda", 0, "H200"),), (), (0,))
    problems = check(worker_endpoint(device="cuda", workers=2), machine)
    assert any("need 2, and 1 are here" in problem for problem in problems)


def test_weights_that_do_not_fit_are_told_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 754000000000}}')
    cards = Machine(tuple(Device("cuda", n, "H200", 143771, f"GPU-{n}") for n in range(8)), (), (0,))

    def told(**options: Any) -> list[str]:
        end = worker_endpoint(str(tmp_path), device="cuda", options=options)
        return [problem for problem in check(end, cards) if "weights" in problem]

    (problem,) = told(tensor_parallel_size=4)
    assert "754 GB" in problem
    assert "tensor_parallel_size: 8" in problem
    assert told(tensor_parallel_size=8) == []
    assert told(tensor_parallel_size=4, quantization="fp8") == []


def test_weights_of_a_hubs_model_are_told_by_what_its_cache_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    large = replace(worker_endpoint("lab/large"), workers=worker_endpoint(device="cuda").workers)
    card = Machine((Device("cuda", 0, "NVIDIA L4", 23034, "GPU-0"),), (), (0,))
    assert oversized(large, card) == [], "nothing is known of it yet"
    snapshot = tmp_path / "models--lab--large" / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(
        json.dumps(
            {
                "num_hidden_layers": 80,
                "hidden_size": 8192,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "intermediate_size": 28672,
                "vocab_size": 128256,
                "torch_dtype": "bfloat16",
            }
        )
    )
    (by_config,) = oversized(large, card)
    assert by_config.startswith("endpoint house: the weights take 141 GB, 141 on each of 1 NVIDIA L4")
    (snapshot / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 90000000000}}')
    (by_files,) = oversized(large, card)
    assert "the weights take 90 GB" in by_files
    assert oversized(large, replace(card, gpus=())) == []


def test_a_gpu_is_not_paid_for_a_build_for_the_cpu() -> None:
    here = Machine((Device("cuda", 0, "H200", 143771, "GPU-0"),), (), (0,))
    problems = check(worker_endpoint(device="cuda"), here)
    assert any("is the CPU's build" in problem for problem in problems), problems


def test_a_worker_that_can_start_has_no_problem() -> None:
    assert check(worker_endpoint(), NOTHING_HERE) == []


def answers(pool: VllmEngine, count: int = 3) -> list[FailureKind]:
    ticket = pool.submit(shard("house", [request(n, f"add {n} 1") for n in range(count)]), "key")
    replies = list(pool.collect(ticket))
    assert all(isinstance(reply, Failure) for reply in replies)
    assert sorted(reply.row for reply in replies) == list(range(count))
    return [reply.kind for reply in replies]


def test_a_worker_that_does_not_come_up_says_why_and_what_it_cost() -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(1))
    pool = VllmEngine(
        worker_endpoint(python=sys.executable, usd_per_hour=Decimal(36)), EngineContext(journal, budget)
    )
    try:
        assert answers(pool) == [FailureKind.WORKER_DIED] * 3
        said = next(
            outcome.reply for outcome in journal.outcomes.values() if isinstance(outcome.reply, Failure)
        )
        assert "No module named 'vllm'" in said.message
        assert "doctor" in said.message
    finally:
        pool.close()
    (life,) = pool.worker_lifetimes()
    assert journal.cost == life.cost_usd == budget.spent_usd > 0
    assert budget.reserved_usd == 0


def test_without_money_nothing_starts() -> None:
    budget = RunBudget(Decimal("0.5"))
    pool = VllmEngine(worker_endpoint(usd_per_hour=Decimal(3600)), EngineContext(MemoryJournal(), budget))
    assert answers(pool) == [FailureKind.BUDGET] * 3
    pool.close()
    assert pool.worker_lifetimes() == []


def test_after_the_deadline_nothing_starts() -> None:
    late = datetime.now(UTC) - timedelta(seconds=1)
    pool = VllmEngine(worker_endpoint(), EngineContext(MemoryJournal(), RunBudget(None), late))
    assert answers(pool) == [FailureKind.DEADLINE] * 3
    assert pool.worker_lifetimes() == []
    pool.close()


@pytest.mark.parametrize(
    ("started_in", "minimum_left", "expected", "kept"),
    [
        (120.0, 0.0, True, 120.0),  # as long as its next start would take
        (2.0, 0.0, True, SHORT_BREAK_SECONDS),
        (900.0, 0.0, True, IDLE_SECONDS),
        (120.0, 0.0, False, SHORT_BREAK_SECONDS),  # what comes next waits for a batch
        (120.0, 60.0, False, math.inf),  # is paid for anyway
    ],
)
def test_a_worker_is_kept_idle_no_longer_than_its_next_start_would_cost(
    started_in: float, minimum_left: float, expected: bool, kept: float
) -> None:
    assert idle_seconds(started_in, minimum_left, IDLE_SECONDS, expected=expected) == kept


def test_a_worker_that_was_kept_is_not_stopped_the_moment_before_its_last_requests_come() -> None:
    """A plan's shards are handed over just after it was said that nothing follows them."""
    now = 1000.0
    work = NextWork(lambda: now)
    idle_since, started_in = now, 200.0
    now += 90.0
    assert not work.is_late(idle_since, started_in, 0.0, IDLE_SECONDS), "something is expected"
    work.tell(expected=False)
    assert not work.is_late(idle_since, started_in, 0.0, IDLE_SECONDS)
    now += SHORT_BREAK_SECONDS - 1.0
    work.tell(expected=False)
    assert not work.is_late(idle_since, started_in, 0.0, IDLE_SECONDS)
    now += 2.0
    assert work.is_late(idle_since, started_in, 0.0, IDLE_SECONDS), "saying it again changes nothing"
