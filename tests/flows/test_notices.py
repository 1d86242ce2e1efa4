"""`notify:` against a webhook on loopback: who is told what, that it is retried, and that it is never in the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.nights import night_here, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.errors import BrokeOff, JobError
from thirdshift.flows.execution import notices
from thirdshift.flows.execution import webhook as webhook_calls
from thirdshift.flows.execution.approval import ask_nobody
from thirdshift.flows.execution.notices import Notifier
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions

PRICE = {"price": {"input": 0.1, "output": 0.4}}


class Webhook:
    """A webhook that answers with `statuses`, one after the other, then 200; None: not before it is let go."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses, self.told = list(statuses), list[dict[str, Any]]()
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status is None:
                    outer.let_go.wait(60)
                    return
                if status == 200:
                    outer.told.append(body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.handler = Handler


@contextmanager
def webhook(monkeypatch: pytest.MonkeyPatch, *statuses: int | None) -> Iterator[Webhook]:
    hook = Webhook(*statuses)
    with ThreadingHTTPServer(("127.0.0.1", 0), hook.handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OUR_WEBHOOK", f"http://127.0.0.1:{server.server_port}/services/T0/secret-path")
        yield hook
        hook.let_go.set()
        server.shutdown()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Path]]:
    folder = tmp_path_factory.mktemp("sums")
    items = write_sums(folder / "requests.parquet", 12)
    with emulated([cheap(ability=-3)], items=items) as emulator:
        yield emulator, folder


def job_with(provider: tuple[Emulator, Path], folder: Path, notify: dict[str, Any], **keys: Any) -> Path:
    emulator, data = provider
    source = str(data / "requests.parquet")
    return write_job(folder, emulator, {"cheap": PRICE}, **{"input": source, "notify": notify, **keys})


def context_of(job: Path) -> RunContext:
    return context_for(RunOptions(job=job), "tonight")


def test_a_run_that_is_done_is_told_once_with_its_figures_and_no_prompt_after_a_webhook_that_failed(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_calls, "FIRST_WAIT_SECONDS", 0.01)
    with webhook(monkeypatch, 503, 429) as hook:
        job = job_with(provider, tmp_path, {"url_env": "OUR_WEBHOOK"})
        night = night_here(job, "tonight")
        assert night_here(job, "tonight").code == 0  # a finished run does nothing, and tells nothing
    (told,) = hook.told
    assert (told["event"], told["job"], told["run_id"], told["exit"]) == ("done", "sums", "tonight", 0)
    assert told["results"] == 12
    assert told["spent_usd"] == night.summary["spent_usd"]
    assert "12 results, 0 of them errors" in told["text"]
    assert "plus" not in json.dumps(told)  # every prompt has it
    assert "secret-path" not in night.said


def test_a_missed_floor_is_told_in_slacks_shape(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = {"floor": 0.99, "scorer": "exact"}
    with webhook(monkeypatch) as hook:
        notify = {"url_env": "OUR_WEBHOOK", "format": "slack", "on": ["floor_missed"]}
        assert night_here(job_with(provider, tmp_path, notify, quality=quality), "tonight").code == 3
    (told,) = hook.told
    assert told.keys() == {"text"}
    assert "the floor was missed" in told["text"]


def test_what_a_cap_stops_is_told_as_a_stop_and_a_webhook_that_wants_none_of_it_is_left_alone(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(monkeypatch) as hook:
        notify = {"url_env": "OUR_WEBHOOK", "on": ["done", "stop"]}
        assert night_here(job_with(provider, tmp_path, notify, budget={"cap_usd": 0.00001}), "one").code == 4
        job_with(provider, tmp_path, {**notify, "on": ["done"]}, budget={"cap_usd": 0.00001})
        assert night_here(tmp_path / "job.yaml", "two").code == 4
    assert [(told["event"], told["run_id"], told["outcomes"]) for told in hook.told] == [
        ("stop", "one", ["budget"])
    ]


def test_a_plan_that_waits_for_somebody_is_told_when_it_is_asked_for_and_without_anybody_at_the_end(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(monkeypatch) as hook:
        job = job_with(
            provider, tmp_path, {"url_env": "OUR_WEBHOOK"}, budget={"cap_usd": 1, "approve_above_usd": 0}
        )
        notifier = Notifier(context_of(job), pytest.fail)
        assert notifier.asking(ask_nobody) is ask_nobody
        assert notifier.asking(lambda _, why: bool(why))(context_of(job), "the plan costs $7")
        notifier.close()
        assert night_here(job, "tonight").code == 4
    waiting, ended = hook.told
    assert (waiting["event"], waiting["why"]) == ("approval", "the plan costs $7")
    assert (ended["event"], ended["outcomes"]) == ("approval", ["approval"])
    assert "--yes" in ended["text"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokeOff("the disk is full; thirdshift resume tonight"), "exit 1: the disk is full"),
        (ValueError("prompt: what ails me?"), "ValueError; its log says more"),
        (KeyboardInterrupt(), "it was told to stop"),
    ],
)
def test_a_run_that_broke_off_is_a_stop_and_a_fault_of_ours_tells_no_text(
    provider: tuple[Emulator, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    said: str,
) -> None:
    with webhook(monkeypatch) as hook:
        notifier = Notifier(context_of(job_with(provider, tmp_path, {"url_env": "OUR_WEBHOOK"})), pytest.fail)
        notifier.broke_off(error)
        notifier.close()
    (told,) = hook.told
    assert told["event"] == "stop"
    assert said in told["text"]
    assert "what ails me" not in json.dumps(told)


def test_a_webhook_that_hangs_or_refuses_is_said_and_the_night_ends_all_the_same(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LAST_SECONDS", 0.1)
    with webhook(monkeypatch, None):
        job = job_with(provider, tmp_path, {"url_env": "OUR_WEBHOOK"})
        assert night_here(job, "tonight").code == 0
    said: list[str] = []
    monkeypatch.setattr(notices, "LAST_SECONDS", 60.0)
    with webhook(monkeypatch, 404) as hook:
        notifier = Notifier(context_of(job), said.append)
        notifier.interrupted()
        notifier.close()
    assert hook.told == []
    assert said == ["notify: the webhook that OUR_WEBHOOK names was not told: it answered 404"]


def test_a_rehearsal_tells_nobody(
    provider: tuple[Emulator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(monkeypatch) as hook:
        job = job_with(provider, tmp_path, {"url_env": "OUR_WEBHOOK"})
        notifier = Notifier(context_for(RunOptions(job=job, emulated=True), "tonight"), pytest.fail)
        notifier.interrupted()
        notifier.close()
    assert hook.told == []


@pytest.mark.parametrize(
    ("stated", "environ", "said"),
    [
        ("https://hooks.example.com/secret", {}, "must be the name of a variable"),
        ("OUR_WEBHOOK", {}, "the variable OUR_WEBHOOK is not set"),
        ("OUR_WEBHOOK", {"OUR_WEBHOOK": "hooks.example.com/secret"}, "holds no URL"),
    ],
)
def test_a_url_in_the_job_or_a_variable_without_one_is_refused_and_not_repeated(
    provider: tuple[Emulator, Path], tmp_path: Path, stated: str, environ: dict[str, str], said: str
) -> None:
    job = job_with(provider, tmp_path, {"url_env": stated})
    with pytest.raises(JobError, match=said) as refused:
        load_job(job, environ=environ)
    assert "secret" not in str(refused.value)
