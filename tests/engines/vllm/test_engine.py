"""A pool of workers whose engine is a stand-in: what a real one shows seldom, or takes long to show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from tests.support.engines import MemoryJournal, request, shard
from tests.support.paths import TESTS
from tests.support.workers import USD_PER_HOUR, ask, pool
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import check
from thirdshift.engines.vllm.keys import without_secrets
from thirdshift.engines.vllm.process import PROGRAM, ending
from thirdshift.engines.vllm.shared_memory import PLACE, SharedMemory
from thirdshift.router.values import Answer, Failure, FailureKind, LedgerStatus


def test_two_workers_share_a_shard_and_each_is_paid_to_the_second(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(10))
    made = pool(tmp_path, journal, budget, workers=2, seconds=0.05)
    shares = Counter(one.output for one in ask(made, 400) if isinstance(one, Answer))
    made.close()
    worker_lifetimes = made.worker_lifetimes()
    assert shares.keys() == {str(life.pid) for life in worker_lifetimes}
    assert min(shares.values()) > 100, shares
    assert len({life.worker_id for life in worker_lifetimes}) == 2
    for life in worker_lifetimes:
        paid = sum(
            one.cost_usd
            for one in journal.outcomes.values()
            if journal.intents[one.entry_id].provider_ref == life.worker_id
        )
        assert life.stopped_at is not None
        seconds = (life.stopped_at - life.started_at).total_seconds()
        assert abs(float(paid / USD_PER_HOUR * 3600) - seconds) < 1
        assert paid == life.cost_usd
        assert float(life.accounting_usd) == pytest.approx(float(USD_PER_HOUR) / 2 * seconds / 3600)
        assert not psutil.pid_exists(life.pid)
    assert journal.cost == budget.spent_usd
    rates = made.rates()
    assert rates is not None
    assert (rates.prefill_tokens, rates.decode_tokens) == (4000, 800)


def test_a_banner_that_an_images_python_begins_with_is_no_message(tmp_path: Path) -> None:
    made = pool(tmp_path, MemoryJournal(), RunBudget(Decimal(10)), keep=tmp_path)
    python = tmp_path / "stand-in-python"
    python.write_text(python.read_text().replace("#!/bin/sh\n", "#!/bin/sh\necho '== CUDA ==\n[1] 7'\n"))
    assert check(made.endpoint) == []
    assert all(isinstance(reply, Answer) for reply in ask(made, 3))
    made.close()
    (log,) = (tmp_path / "workers").iterdir()
    assert "== CUDA ==" in log.read_text()


def test_a_process_that_left_the_workers_group_with_its_log_open_keeps_nobody(tmp_path: Path) -> None:
    made = pool(tmp_path, MemoryJournal(), RunBudget(Decimal(10)))
    python, apart = tmp_path / "stand-in-python", tmp_path / "apart"
    begin = f"setsid sh -c 'echo $$ > {apart}; exec sleep 300' &\n"
    python.write_text(python.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{begin}"))
    assert all(isinstance(reply, Answer) for reply in ask(made, 3))
    closing = threading.Thread(target=made.close, daemon=True)
    closing.start()
    closing.join(30.0)
    os.kill(int(apart.read_text()), signal.SIGKILL)
    assert not closing.is_alive()


def test_a_worker_that_a_real_time_signal_ended_is_told_by_its_number() -> None:
    assert ending(-9) == "was killed (SIGKILL)"
    assert ending(-40) == "was killed (signal 40)"
    assert ending(3) == "ended with status 3"


def test_after_out_of_memory_the_next_worker_runs_half_as_many_at_once(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(10))
    made = pool(tmp_path, journal, budget, max_num_seqs=8, faults_above=2)
    assert all(isinstance(one, Answer) for one in ask(made, 40))
    made.close()
    assert len(made.worker_lifetimes()) == 3  # eight at once, four, two
    settled = [one for one in journal.outcomes.values() if one.status is LedgerStatus.SETTLED and one.reply]
    assert len(settled) == 40
    assert budget.reserved_usd == 0


def test_a_worker_that_is_not_ready_in_time_is_told_with_the_last_lines_of_its_log(tmp_path: Path) -> None:
    made = pool(tmp_path, MemoryJournal(), RunBudget(Decimal(10)), never_ready=True, startup_seconds=1.0)
    for reply in ask(made, 3):
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.WORKER_DIED
        assert "was not ready after 1 s" in reply.message
        assert "loading shard 3 of 9" in reply.message
    made.close()
    assert not psutil.pid_exists(made.worker_lifetimes()[0].pid)


ENGINE_DIES = """
import multiprocessing, sys, threading, time
path = list(sys.path)
from thirdshift.engines.vllm import worker as vllm_worker
if __name__ == "__main__":
    assert sys.path == path  # what vLLM spawns reads the worker's file too
    engine = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), name="EngineCore")
    engine.start()
    vllm_worker.watch(vllm_worker.ParentPipe(), threading.Event())
    engine.kill()
    time.sleep(60)
"""


def test_a_worker_ends_with_its_engine_process() -> None:
    done = subprocess.run(
        (sys.executable, "-c", ENGINE_DIES),
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == {
        "op": "fault",
        "kind": "engine",
        "message": "vLLM's process ended: EngineCore",
    }


SHARES = """
import time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=1024)
print(memory.name, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shows what is shared")
def test_shared_memory_of_a_killed_worker_is_unlinked() -> None:
    worker = subprocess.Popen(
        (sys.executable, "-c", SHARES), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert worker.stdout is not None
    place = PLACE / worker.stdout.readline().strip()
    shared = SharedMemory(worker.pid)
    shared.look()
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    assert place.exists()
    shared.unlink()
    assert not place.exists()


def test_a_worker_gets_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "SLACK_TOKEN",
        "PGPASSWORD",
        "HF_TOKEN",
        "NCCL_X",
    ):
        monkeypatch.setenv(name, "value")
    made = pool(tmp_path, MemoryJournal(), RunBudget(Decimal(10)), environment=str(tmp_path / "environment"))
    ask(made, 1)
    made.close()
    names = set(json.loads((tmp_path / "environment").read_text()))
    assert names >= {"HF_TOKEN", "NCCL_X", "PATH"}
    assert not names & {"OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "SLACK_TOKEN", "PGPASSWORD"}
    assert "AWS_SECRET_ACCESS_KEY" in without_secrets(os.environ, "s3://bucket/model")


@pytest.mark.parametrize("seconds", [None, 0.2])
def test_a_worker_that_waits_for_money_is_waited_for_no_longer_than_the_night(
    tmp_path: Path, seconds: float | None
) -> None:
    budget = RunBudget(Decimal(1))
    assert budget.reserve(Decimal("0.9999")), "a batch in flight"
    made = pool(tmp_path, MemoryJournal(), budget)
    if seconds is not None:
        made.engine_context = replace(
            made.engine_context, deadline=datetime.now(UTC) + timedelta(seconds=seconds)
        )
    ticket = made.submit(shard("house", [request(0, "add 1 1")]), "key")
    told: list[Answer | Failure] = []
    ending = threading.Thread(
        target=made.close if seconds is None else lambda: told.extend(made.collect(ticket)), daemon=True
    )
    ending.start()
    ending.join(5)
    assert not ending.is_alive()
    made.close()
    kinds = {reply.kind for reply in told or made.collect(ticket) if isinstance(reply, Failure)}
    assert kinds == {FailureKind.CANCELLED if seconds is None else FailureKind.DEADLINE}
    assert made.worker_lifetimes() == []


STUB = """
class Platform:
    device_name = "cpu"
current_platform = Platform()
"""


def test_a_worker_whose_vllm_runs_on_another_device_ends_before_it_loads(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    (tmp_path / "vllm" / "platforms.py").write_text(STUB)
    hello = {"model": "m", "options": {}, "parent": os.getpid(), "device": "cuda"}
    worker = subprocess.Popen(
        (sys.executable, str(PROGRAM)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    worker.stdin.write(json.dumps(hello).encode() + b"\n")
    worker.stdin.flush()  # and left open: at its end the worker would end too
    told = json.loads(worker.stdout.read())
    assert worker.wait() == 1
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        pipe.close()
    assert told["op"] == "fault"
    assert "device: cuda is asked for, and this vLLM runs on cpu" in told["message"]
