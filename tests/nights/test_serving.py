"""A job served to a real Prefect server: its form, approval in the UI's way, cancelling, and the events it leaves."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
import yaml
from typer.testing import CliRunner

from tests.support.nights import PROGRAM, answer, ask, environment, thirdshift, write_job, write_sums
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import billed_usd, cheap, dear, emulated
from thirdshift.engines.emulator import Emulator, ability_for
from thirdshift.flows.cli.app import app
from thirdshift.flows.cli.serve import Schedule, check_server, checked, checked_job, in_zone
from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration.approval_form import WAIT_SECONDS, patience
from thirdshift.flows.orchestration.events import AT_THE_END, DEADLINE_RISK, MODEL_DRIFT, PRICE_DRIFT
from thirdshift.flows.orchestration.invocation import dated
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.verdicts import Verdict

OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", OPERATING, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
(INVOICE,) = re.findall(r"^```csv\n(.*?)^```", OPERATING, re.DOTALL | re.MULTILINE)
NIGHTLY = Schedule("0 22 * * *", "Europe/Berlin")
LAST = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Served:
    """A job being served, and what its provider billed."""

    job: Path
    emulator: Emulator
    process: subprocess.Popen[str]

    @property
    def warehouse(self) -> Path:
        return self.job.with_name("warehouse.duckdb")


@pytest.fixture(scope="module", autouse=True)
def _no_limits_are_left(prefect_api: None) -> Iterator[None]:
    """The tests after these share the API and the endpoints' names; its test server lets no lease of a killed run go."""
    yield
    with api() as client:
        for limit in client.read_global_concurrency_limits(limit=200, offset=0):
            client.delete_global_concurrency_limit_by_name(limit.name)


@pytest.fixture(scope="module")
def served(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    items = write_sums(folder / "requests.parquet", 300)
    models = [
        dear(ability=ability_for(0.9999), slope=1, latency_seconds=0.5),
        cheap(ability=ability_for(0.6), slope=1, latency_seconds=0.02),
    ]
    with emulated(models, items=items, seed=5) as emulator:
        job = write_job(
            folder,
            emulator,
            {
                "dear": {"price": {"input": 5, "output": 25}, "limits": {"concurrency": 8}},
                "cheap": {"price": {"input": 0.1, "output": 0.4}},
            },
            name="served-sums",
            params={"ds": None, "level": 3},
            tags={"team": "support"},
            quality={"floor": 0.9, "scorer": "numeric", "pilot": 0},
            budget={"cap_usd": 5, "approve_above_usd": 0.0001},
        )
        process = subprocess.Popen(
            [
                PROGRAM,
                "serve",
                job,
                "--cron",
                NIGHTLY.cron,
                "--timezone",
                NIGHTLY.timezone,
                "--param",
                "ds={date}",
            ],
            env={**environment(), "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert "serving night/served-sums" in lines[0], lines
        assert "next night" in lines[1]
        assert "22:00 Europe/Berlin" in lines[1]
        yield Served(job, emulator, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        process.stderr.close()


def api() -> Any:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def deployment() -> Any:
    with api() as client:
        return client.read_deployment_by_name("night/served-sums")


def schedule_one(days: int) -> None:
    """An upcoming run, which the API of these tests makes none of: it has no scheduler (test_schedules has one)."""
    from prefect.states import Scheduled

    with api() as client:
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=days))
        client.create_flow_run_from_deployment(deployment().id, state=later)


def begun(**parameters: Any) -> Any:
    """A flow run, as the UI's form makes one."""
    with api() as client:
        return client.create_flow_run_from_deployment(deployment().id, parameters=parameters)


def once(run: Any, is_so: Callable[[Any], bool], seconds: float = 120.0) -> Any:
    """The run's state as soon as `is_so` of it."""
    with api() as client:
        last = time.monotonic() + seconds
        while not is_so(state := client.read_flow_run(run.id).state):
            assert time.monotonic() < last, state
            time.sleep(0.2)
    return state


def final(state: Any) -> bool:
    return bool(state.is_final())


def paused(state: Any) -> bool:
    return bool(state.is_paused() or state.is_final())


def events_of(run_id: str) -> list[str]:
    from prefect.settings import PREFECT_API_URL

    response = httpx.post(
        f"{PREFECT_API_URL.value()}/events/filter",
        json={
            "filter": {"event": {"prefix": ["thirdshift."]}, "resource": {"id": [f"thirdshift.run.{run_id}"]}}
        },
    )
    return [event["event"] for event in response.json()["events"]]


def test_the_form_has_the_jobs_params_with_their_types_and_refuses_others(served: Served) -> None:
    found = deployment()
    params = found.parameter_openapi_schema["definitions"]["Params"]["properties"]
    assert (params["ds"]["type"], params["ds"]["default"]) == ("string", "{date:Europe/Berlin}")
    assert (params["level"]["type"], params["level"]["default"]) == ("integer", 3)
    assert set(found.parameter_openapi_schema["properties"]) == {"job", "params", "run_id", "cap", "deadline"}
    assert set(found.tags) == {"cheap", "dear", "team:support"}
    assert found.schedules[0].schedule.timezone == "Europe/Berlin"
    with pytest.raises(Exception, match=r"(?s)not of type 'integer'|is not valid"):
        begun(params={"ds": "a", "level": "three"})
    with pytest.raises(Exception, match=r"(?s)-1|minimum|is not valid"):
        begun(params={"ds": "a", "level": 3}, cap=-1)
    for run_id in ("..", "a/b", "/abs"):
        with pytest.raises(Exception, match=r"(?s)does not match|is not valid"):
            begun(params={"ds": "a", "level": 3}, run_id=run_id)


def test_a_refused_plan_ends_as_a_budget_stop_that_has_spent_nothing(served: Served) -> None:
    run = begun(params={"ds": "refused", "level": 3})
    state = once(run, paused)
    assert state.is_paused(), state.message
    with api() as client:
        asked = client.read_flow_run(run.id)
        assert asked.name == "served-sums.ds=refused.level=3"
        client.resume_flow_run(run.id, run_input={"approve": False})
    state = once(run, final)
    assert (state.type.value, "exit 4: approval" in state.message) == ("FAILED", True)
    assert billed_usd(served.emulator) == 0
    sql = f"select status, outcomes from runs where run_id = '{asked.name}'"
    ((status, outcomes),) = ask(served.warehouse, sql)
    assert (status, "approval" in outcomes) == ("budget", True)
    last = time.monotonic() + PATIENCE_SECONDS
    while "thirdshift.not-approved" not in (told := events_of(asked.name)):
        assert time.monotonic() < last, told
        time.sleep(0.5)


def ask_patiently(warehouse: Path, sql: str, last: float) -> list[tuple[Any, ...]]:
    """The answer, once no other process writes to the warehouse."""
    while True:
        try:
            return ask(warehouse, sql)
        except duckdb.IOException:
            assert time.monotonic() < last
            time.sleep(0.05)


def test_an_approved_run_goes_on_and_cancelled_it_keeps_what_is_paid_for(served: Served) -> None:
    run_id = "approved"
    run = begun(params={"ds": "approved", "level": 3}, run_id=run_id)
    state = once(run, paused)
    assert state.is_paused(), state.message
    with api() as client:
        client.resume_flow_run(run.id, run_input={"approve": True})
    last = time.monotonic() + PATIENCE_SECONDS
    while served.emulator.totals().get("dear", {}).get("requests", 0) < 20:
        assert time.monotonic() < last
        time.sleep(0.2)
    with api() as client:
        from prefect.states import Cancelling

        client.set_flow_run_state(run.id, Cancelling())
        assert client.read_global_concurrency_limit_by_name("thirdshift-dear").limit == 1
    assert once(run, final).type.value == "CANCELLED"
    entered = f"select status, spent_usd from runs where run_id = '{run_id}'"
    last = time.monotonic() + PATIENCE_SECONDS
    while (row := ask_patiently(served.warehouse, entered, last))[0][0] == "running":
        assert time.monotonic() < last
        time.sleep(0.2)
    billed = billed_usd(served.emulator)
    assert row == [("interrupted", billed)], "without anybody resuming it"
    told = f"select distinct status, sum(cost_usd) over () from ledger where run_id = '{run_id}' and cost_usd > 0"
    assert ask(served.warehouse, told) == [("settled", billed)], "what was in flight was waited for"

    done = thirdshift("resume", run_id, "--warehouse", served.warehouse, "--yes", "--json")
    assert answer(done)["exit"] == 0, done.stderr
    ((spent, requests),) = ask(
        served.warehouse,
        "select sum(cost_usd), count(distinct request_id) from ledger where status <> 'void'",
    )
    assert (spent, requests) == (billed_usd(served.emulator), 300)
    again = begun(params={"ds": "approved", "level": 3}, run_id=run_id)
    assert once(again, final).type.value == "COMPLETED"
    assert billed_usd(served.emulator) == spent, "a finished run spends nothing"


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_in_operating_md_runs(
    served: Served, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the run that the tests above have left."""
    monkeypatch.chdir(served.job.parent)
    Path("erase.txt").write_text("r00000\n")
    Path("invoice.csv").write_text(INVOICE)
    done = CliRunner().invoke(app, shlex.split(line.replace("RUN_ID", "approved"))[1:])
    assert done.exit_code == 0, done.output


def test_a_run_waits_for_its_turn_where_another_runs_concurrency_is_stated(prefect_api: None) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    from thirdshift.flows.orchestration.concurrency import EndpointSlots, limit_name

    with api() as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit_name("busy"), limit=1))
    messages: list[str] = []
    with EndpointSlots(["busy"]).of("busy"):
        other = EndpointSlots(["busy"], datetime.now(UTC) + timedelta(seconds=2), messages.append)
        with other.of("free"), other.of("busy"), other.of("busy"):
            assert "waiting for another run" in messages[0], (
                "until its deadline; then the engine sends nothing"
            )


def test_the_deployments_of_prefect_yaml_are_deployed_to_a_work_pool(
    prefect_api: None, tmp_path: Path
) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    (tmp_path / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    with api() as client:
        client.create_work_pool(WorkPoolCreate(name="nights", type="process"))
    done = subprocess.run(
        [PROGRAM.with_name("prefect"), "--no-prompt", "deploy", "--all"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with api() as client:
        nightly = client.read_deployment_by_name("night/nightly")
    assert (nightly.entrypoint, nightly.work_pool_name) == ("thirdshift.flows.night.night", "nights")
    assert set(nightly.parameters) <= set(nightly.parameter_openapi_schema["properties"])


@pytest.mark.parametrize(
    ("schedule", "params", "says"),
    [
        (Schedule("0 22 * *", "UTC"), {}, "no cron line"),
        (Schedule("0 22 * * *", "Europe/Berln"), {}, "did you mean Europe/Berlin"),
        (NIGHTLY, {"ds": "2026-11-22"}, "every night is the same run"),
        (NIGHTLY, {"sd": "{date}"}, "sd"),
    ],
)
def test_what_cannot_be_served_is_said_before(
    tmp_path: Path, schedule: Schedule, params: dict[str, str], says: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: n\nparams: {ds: null}\ninput: x.parquet\nendpoints:\n"
        "  - {name: a, model: openai/a, api_base: 'http://127.0.0.1:1/v1', price: {input: 1, output: 1}}\n"
    )

    def check() -> None:
        checked(schedule)
        checked_job(RunOptions(job, in_zone(params, schedule.timezone)), scheduled=True)

    with pytest.raises(UserError, match=says):
        check()


def test_without_a_server_it_is_said_how_to_start_one() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(UserError, match="server start"),
    ):
        check_server()
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(UserError, match="no Pref"),
    ):
        check_server()


def test_a_nights_date_is_that_of_its_schedules_time_zone() -> None:
    assert dated("{date}", LAST) == "2026-11-22"
    assert dated("dt={date:Asia/Tokyo}/{yesterday:Asia/Tokyo}", LAST) == "dt=2026-11-23/2026-11-22"
    assert dated("{other} {}", LAST) == "{other} {}"
    assert in_zone({"a": "{date}", "b": "{date:UTC}"}, "Asia/Tokyo") == {
        "a": "{date:Asia/Tokyo}",
        "b": "{date:UTC}",
    }


def test_an_answer_is_waited_for_until_the_deadline_and_a_day_at_most() -> None:
    assert patience(None, LAST) == WAIT_SECONDS
    assert patience(LAST + timedelta(hours=2), LAST) == 7200
    assert patience(LAST + timedelta(days=9), LAST) == WAIT_SECONDS
    assert patience(LAST - timedelta(hours=1), LAST) > 0


def test_a_flows_parameters_are_a_calls_fields() -> None:
    from inspect import signature

    from thirdshift.flows.night import night

    call = RunOptions(Path("job.yaml"), {"n": "1"}, cap=Decimal("0.3"))
    assert set(signature(night.fn).parameters) == set(call.as_parameters())
    assert RunOptions.from_parameters({**call.as_parameters(), "cap": 0.3, "params": {"n": 1}}) == call


def test_the_automation_in_operating_md_is_one_and_its_events_are_told() -> None:
    from prefect.events import AutomationCore

    (text,) = re.findall(r"^```yaml\n(.*?)^```", OPERATING, re.DOTALL | re.MULTILINE)
    asked = AutomationCore.model_validate(yaml.safe_load(text))
    events = {*AT_THE_END.values(), DEADLINE_RISK, MODEL_DRIFT, PRICE_DRIFT}
    assert set(asked.trigger.expect) <= events
    (told,) = re.findall(r"^\*\*Events\*\*.*?(?=^```yaml)", OPERATING, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(thirdshift\.[a-z-]+)`", told)) == events
    assert set(AT_THE_END) == set(Verdict)
