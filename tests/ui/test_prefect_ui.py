"""A night in Prefect's own UI, with a real server: the deployment, its form, a run that ends green, what it leaves.

With SCREENSHOTS set to a folder (docs/images), the pictures of the docs are made anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.support.nights import PROGRAM, write_job, write_sums
from tests.support.other_servers import free_port, running
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pictures import picture
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import ability_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
expect.set_options(timeout=1000 * PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server of its own, UI and all."""
    port = free_port()
    command = [PROGRAM.with_name("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environ = {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
    }
    with running(command, port, "/api/health", environ) as address:
        yield address


@pytest.fixture(scope="module")
def served(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A job served there; the id of its deployment."""
    folder = tmp_path_factory.mktemp("triage")
    items = write_sums(folder / "requests.parquet", 600)
    models = [
        dear(ability=ability_for(0.9999), slope=1, latency_seconds=0.05),
        cheap(ability=ability_for(0.67), slope=1, latency_seconds=0.02),
    ]
    with emulated(models, items=items, seed=5) as emulator:
        job = write_job(
            folder,
            emulator,
            {
                "dear": {"price": {"input": 5, "output": 25}, "limits": {"concurrency": 32}},
                "cheap": {"price": {"input": 0.1, "output": 0.4}},
            },
            name="ticket-triage",
            params={"ds": None},
            tags={"team": "support"},
            quality={"floor": 0.9, "scorer": "numeric", "pilot": 60},
            budget={"cap_usd": 5},
        )
        with subprocess.Popen(
            [PROGRAM, "serve", job],
            env={**os.environ, "PREFECT_API_URL": f"{server}/api", "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            try:
                line = process.stderr.readline()
                assert "serving night/ticket-triage" in line, line
                yield line.rpartition("/")[2].strip()
            finally:
                process.terminate()
                process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no Chromium on the path; install it to run make test-ui"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """A page that reaches nothing but the server; whatever else is asked for is a fault."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    opened = context.new_page()
    abroad: list[str] = []
    opened.on("request", lambda request: None if _ours(request.url, server) else abroad.append(request.url))
    yield opened
    context.close()
    assert not abroad


def _ours(url: str, server: str) -> bool:
    return url.startswith((server, server.replace("http", "ws", 1), "data:", "blob:"))


def until(is_so: object, seconds: float = PATIENCE_SECONDS) -> None:
    assert callable(is_so)
    last = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < last
        time.sleep(0.3)


def part(page: Page, name: str) -> Locator:
    """The form's part for a parameter."""
    return page.locator("label", has_text=re.compile(rf"^\s*{name}\b")).locator("xpath=../..")


def field(page: Page, name: str) -> Locator:
    return part(page, name).locator("textarea, input").first


def test_a_night_from_form_to_certificate(page: Page, server: str, served: str) -> None:
    page.goto(f"{server}/deployments")
    expect(page.get_by_text("ticket-triage").first).to_be_visible()

    page.goto(f"{server}/deployments/deployment/{served}/run")
    expect(field(page, "ds")).to_be_visible()
    part(page, "cap").get_by_role("button", name="float").click()
    field(page, "cap").fill("-1")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("'ds' is a required property")).to_be_visible()
    expect(page.get_by_text("-1 is not valid")).to_be_visible()
    expect(page).to_have_url(re.compile("/run$"))

    field(page, "cap").fill("2.5")
    field(page, "ds").fill("2026-11-22")
    picture(page, "form")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(rf"/deployments/deployment/{served}$|/runs/flow-run/"))

    runs = f"{server}/api/flow_runs/filter"
    until(lambda: httpx.post(runs, json={}).json()[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
    (run,) = httpx.post(runs, json={}).json()
    assert (run["state_type"], run["name"]) == ("COMPLETED", "ticket-triage.ds=2026-11-22")
    assert set(run["tags"]) == {"cheap", "dear", "team:support"}

    page.goto(f"{server}/runs/flow-run/{run['id']}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    expect(page.get_by_text(re.compile("plan: .* to dear")).first).to_be_visible()
    picture(page, "run")
    page.get_by_role("link", name="artifacts/artifact").first.click()  # the log's last line
    expect(page.get_by_text("What it cost").first).to_be_visible()
    expect(page.get_by_text("this run").first).to_be_visible()

    for what, shown in {
        "plan": "expected cost",
        "frontier": "floor",
        "progress": re.compile(r"(main|repair): \d"),  # the last that there was
        "bill": "Saved by this run",
        "certificate": "Lower bound",
        "report": "floor 0.9 certified",
    }.items():
        page.goto(f"{server}/artifacts/key/ticket-triage-{what}")
        page.locator("a[href*='/artifacts/artifact/']").first.click()
        expect(page.get_by_text(shown).first).to_be_visible()
        if what in ("bill", "certificate"):
            picture(page, what)

    page.goto(f"{server}/artifacts/key/ticket-triage-picture-frontier")
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.locator("img[src^='data:image/png']")).to_be_visible()
    picture(page, "frontier")
