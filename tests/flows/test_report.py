"""The report of a run: its figures are SQL's, it needs nothing but itself, and it says what a run came to."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from tests.support.nights import ask, thirdshift
from thirdshift.flows.orchestration.artifacts import by_floor, claims_of
from thirdshift.flows.report import sentences as words
from thirdshift.flows.report import tables
from thirdshift.flows.report.curves import _few
from thirdshift.flows.report.data import RunFacts, load_facts
from thirdshift.flows.report.drawing import NARROW
from thirdshift.flows.report.figures import plots
from thirdshift.flows.report.markdown import MARKS, as_markdown, rows_of
from thirdshift.flows.report.page import page_of, rendered, write_report
from thirdshift.flows.report.provenance import QUESTIONS
from thirdshift.flows.runs.folder import UnknownRun
from thirdshift.flows.runs.plan_file import load_plan
from thirdshift.flows.verdicts import EXIT, Verdict
from thirdshift.warehouse.journal.run_folder import run_folder

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x^2$ #000101"
VOID = {"meta", "link", "img", "br", "hr"}


@dataclass
class Seen(HTMLParser):
    """What a browser would see of a page: its elements, tables with the exact figures, and text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._caption = ""
        self._value: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.elements.append((tag, said))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr" and "tbody" in self._open:
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("td", "th") and "tbody" in self._open:
            self.tables[self._caption][-1].append("")
            self._value = None
        elif tag == "data":
            self._value = said["value"]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] == "caption":
            self._caption += data
        elif "tbody" in self._open and {"td", "th"} & set(self._open):
            self.tables[self._caption][-1][-1] += data if self._value is None else self._value
            self._value = None


def seen(page: str) -> Seen:
    parser = Seen()
    parser.feed(page)
    return parser


@pytest.fixture(scope="module")
def warehouse(demo_night: Path) -> Path:
    return demo_night / "warehouse.duckdb"


@pytest.fixture(scope="module")
def night(warehouse: Path) -> RunFacts:
    return load_facts(warehouse, "demo")


@pytest.fixture(scope="module")
def page(night: RunFacts) -> str:
    return rendered(page_of(night))


@pytest.fixture
def copied(warehouse: Path, tmp_path: Path) -> Path:
    """The demo's warehouse to do with as a test likes; its run's folder stays behind."""
    return Path(shutil.copy(warehouse, tmp_path / "warehouse.duckdb"))


def change(place: Path, *statements: str, **bound: str) -> None:
    with duckdb.connect(str(place)) as con:
        for statement in statements:
            con.execute(statement, {name: value for name, value in bound.items() if f"${name}" in statement})


def test_the_command_writes_the_page_of_a_run(warehouse: Path, tmp_path: Path) -> None:
    done = thirdshift("report", "demo", "--output", tmp_path / "demo.html", "--warehouse", warehouse)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert "exit 0" in written
    assert len(written) < 400_000


def test_the_figures_of_the_page_are_those_of_sql(page: str, warehouse: Path) -> None:
    tables = seen(page).tables
    figures = "input_tokens, cached_tokens, output_tokens, settled_usd, unsettled_usd"
    spend = f"select endpoint, mode, purpose, attempts, attempts_unsettled, {figures} from spend_by_endpoint"
    paid = ask(warehouse, f"{spend} order by cost_usd desc")
    assert tables["Where the money went"] == [
        [f"{cell:f}" if isinstance(cell, Decimal) else f"{cell}" for cell in row] for row in paid
    ]
    bill = {row[0].removesuffix(" (emulated)"): row for row in tables["Cost of the whole batch"]}
    for name, alone, saved in ask(warehouse, "select endpoint, alone_usd, saved_usd from savings"):
        assert (Decimal(bill[name][1]), Decimal(bill[name][3])) == (alone, saved)
    ((spent, mean),) = ask(warehouse, "select sum(cost_usd), (select avg(score) from results) from ledger")
    assert Decimal(bill["this run"][1]) == spent
    assert float(bill["this run"][2]) == mean
    (claim,) = ask(warehouse, "select floor, mean, lower_bound, scored from certificates")
    assert [float(cell) for cell in tables["What is claimed"][0][3:7]] == list(claim)
    by_task = ask(warehouse, "select task, cost_usd from spend_by_task")
    for task, usd in by_task:
        assert sum(Decimal(row[2]) for row in tables["Cost by task and endpoint"] if row[0] == task) == usd
    dearest = ask(
        warehouse, "select request_id, sum(cost_usd) as usd from ledger group by 1 order by 2 desc, 1 limit 8"
    )
    assert [(row[0], Decimal(row[5])) for row in tables["The dearest requests"]] == dearest
    prices = ask(warehouse, "select endpoint, input_usd_per_mtok, output_usd_per_mtok from prices order by 1")
    assert [
        (row[0], Decimal(row[3]), Decimal(row[4]))
        for row in tables["Prices in force, USD per million tokens"]
    ] == prices


def test_the_page_needs_no_network_and_no_script(page: str) -> None:
    reached = [
        value
        for tag, said in seen(page).elements
        for name in ("src", "href", "xlink:href", "action", "data")
        if (value := said.get(name)) is not None
        if not (value.startswith("#") or value == "data:,")
    ]
    assert reached == []
    assert not re.search(r"<script|@import|url\((?!#)|\son\w+=", page)
    assert "default-src 'none'" in page


def test_the_page_can_be_read_without_seeing_it(page: str) -> None:
    elements = seen(page).elements
    names = [tag for tag, _ in elements]
    assert {"header", "nav", "main", "footer"} <= set(names)
    levels = [int(tag[1]) for tag in names if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all("scope" in said for tag, said in elements if tag == "th")
    assert names.count("caption") == names.count("table")
    ids = [said["id"] for _, said in elements if "id" in said]
    assert len(ids) == len(set(ids))
    labels = [said["aria-labelledby"] for _, said in elements if "aria-labelledby" in said]
    assert set(labels) <= set(ids)
    assert names.count("figure") == 5


def test_a_figure_says_in_words_what_it_shows(night: RunFacts) -> None:
    drawn = plots(night)
    assert list(drawn) == ["bill", "frontier", "spend", "timeline", "estimates"]
    assert "this run $0." in drawn["bill"].description
    assert drawn["bill"].svg(NARROW) == drawn["bill"].svg(NARROW)
    assert "var(--chosen)" in drawn["bill"].svg(NARROW)
    assert drawn["bill"].png()[:4] == b"\x89PNG"


def test_the_plan_stands_on_its_frontier(warehouse: Path) -> None:
    plan = load_plan(run_folder(warehouse, "demo"))
    assert plan is not None
    assert plan.floor == pytest.approx(0.9)
    reached = min(
        0.9, plan.quality or 0.0
    )  # where less is believed to be in reach, the plan stands at the end
    dearer = [cost for floor, cost in plan.points if floor >= reached - 1e-3]
    cheaper = [cost for floor, cost in plan.points if floor <= reached]
    assert max(cheaper) * 0.98 <= plan.cost_usd <= min(dearer) * 1.02
    ((planned,),) = ask(warehouse, "select planned_usd from runs")
    assert plan.total_usd == pytest.approx(float(planned), abs=1e-6)


def test_a_floor_that_no_plan_was_to_reach_is_told_beside_the_frontier(night: RunFacts) -> None:
    assert night.plan is not None
    highest, _ = night.plan.points[-1]
    beyond = replace(night, plan=replace(night.plan, floor=highest + 0.05, quality=highest))
    within = replace(night, plan=replace(night.plan, floor=highest))
    said = f"No plan was expected to reach that; this one was to reach {highest:.3f}."
    assert said in plots(beyond)["frontier"].description
    assert said not in plots(within)["frontier"].description
    assert plots(beyond)["frontier"].png()[:4] == b"\x89PNG"


def test_what_people_wrote_stays_text(copied: Path, tmp_path: Path) -> None:
    change(
        copied,
        "update runs set job = $evil",
        "update ledger set request_id = request_id || $evil where attempt = 1",
        "update ledger set task = $evil where task = 'add'",
        "update results set task = $evil, error = 'refused: ' || $evil where task = 'add'",
        "update assignments set task = $evil where task = 'add'",
        "update shards set endpoint = $evil where purpose = 'main'",
        "update prices set source = $evil",
        "insert into rejects values ('demo', $evil, 3, $evil)",
        evil=EVIL,
    )
    assert write_report("demo", tmp_path / "evil.html", copied, texts=True) == 0
    found = seen((tmp_path / "evil.html").read_text(encoding="utf-8"))
    assert not {"script", "img"} & {tag for tag, _ in found.elements}
    assert not [
        attributes for _, attributes in found.elements if any(name.startswith("on") for name in attributes)
    ]
    assert found.text.count(EVIL) > 10
    change(copied, "update runs set job = $steers", steers="\x1b[2J\u202e")
    write_report("demo", tmp_path / "steers.html", copied, texts=False)
    steered = (tmp_path / "steers.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", steered)
    assert "\\x1b[2J\\u202e" in steered


def test_text_of_requests_is_shown_only_when_asked_for(page: str, warehouse: Path, tmp_path: Path) -> None:
    prompts = [
        text for (text,) in ask(warehouse, "select distinct output from results where length(output) > 9")
    ]
    assert prompts
    assert not [text for text in prompts if text in page]
    out = tmp_path / "texts.html"
    write_report("demo", out, warehouse, texts=True)
    shown = seen(out.read_text(encoding="utf-8")).text
    assert "user: " in shown
    assert out.stat().st_mode & 0o077 == 0


STOPPED = [
    ("budget", ["budget", "floor_missed"], "Stopped by the budget", 4, "resume demo --cap"),
    ("deadline", ["deadline"], "Stopped by the deadline", 5, "resume demo --deadline"),
    ("done", ["errors"], "more requests than tolerated have no answer", 6, "results.error"),
    ("done", ["not_certified"], "is not certified", 3, "quality.audit"),
    ("failed", [], "Broke off", None, "resume demo"),
    ("running", [], "Not finished", None, "resume demo"),
]


def test_a_run_that_was_stopped_says_so_and_what_to_do(copied: Path) -> None:
    for status, outcomes, headline, code, remedy in STOPPED:
        change(
            copied,
            "update runs set status = $status, outcomes = $outcomes",
            status=status,
            outcomes=json.dumps(outcomes),
        )
        found = load_facts(copied, "demo")
        assert headline in words.headline(found)
        assert found.exit_code == code
        assert remedy in " ".join(words.next_steps(found))
        assert not words.good(found)


def test_a_run_that_has_only_begun_has_a_page(copied: Path) -> None:
    tables = (
        "ledger",
        "results",
        "responses",
        "observations",
        "certificates",
        "shards",
        "assignments",
        "run_prices",
    )
    change(
        copied,
        *(f"delete from {table}" for table in tables),
        "update runs set status = 'running', finished_at = null",
    )
    page = page_of(load_facts(copied, "demo"))
    assert page.headline == "Not finished"
    assert "Not finished" in rendered(page)


def test_many_shards_are_drawn_as_what_they_cover() -> None:
    few = [(float(n), n + 0.5, True) for n in range(10)]
    assert _few(few) == tuple(few)
    many = [(float(n), n + 2.0, True) for n in range(1000) if not 300 <= n < 600]
    assert _few(many) == ((0.0, 301.0, True), (600.0, 1001.0, True))


def test_every_outcome_has_a_headline_and_advice() -> None:
    assert set(words.EXITS) == {0, *EXIT.values()}
    assert set(words.MORE) == set(Verdict)


def claims(**given: object) -> Iterator[str]:
    common = {"task": None, "floor": 0.9, "confidence": 0.95, "population": 6010, "scored": 300, "mean": 0.93}
    yield words.claim({**common, "lower_bound": 0.9134, "certified": True, "method": "betting", **given})


def test_a_judges_opinion_is_never_called_quality() -> None:
    (claim,) = claims(basis="judge", scorer="judge opus, rubric 3f2a")
    assert claim.startswith(
        "judge opus, rubric 3f2a: at least 0.9134 (with 95% confidence, from 300 scored of 6,010"
    )
    assert "quality" not in claim.lower()
    (exact,) = claims(basis="reference", scorer="exact", certified=False)
    assert exact.startswith("Mean score by exact: at least 0.9134")
    assert exact.endswith("the floor of 0.9 is not certified.")


def test_a_share_of_an_endpoints_mean_is_called_one() -> None:
    row = {
        "task": None,
        "floor": 0.95,
        "confidence": 0.95,
        "population": 10,
        "scored": 10,
        "mean": 0.97,
        "method": "census",
    }
    row |= {"basis": "reference", "scorer": "exact", "lower_bound": 0.97, "certified": True}
    assert words.claim(row, "opus").startswith(
        "Mean score by exact, as a share of the mean of opus: at least 0.9700"
    )
    assert words.subject(row, "opus") == "Share of opus's mean"


def test_an_unknown_run_is_told_with_those_there_are(warehouse: Path) -> None:
    with pytest.raises(UnknownRun, match="the newest are demo"):
        load_facts(warehouse, "nights")


def test_each_figure_has_the_sql_that_gives_it(night: RunFacts, warehouse: Path) -> None:
    """Put to the warehouse as it stands on the page, it gives what the page shows."""
    page = page_of(night)
    tables = {table.name: table for section in page.sections for table in section.tables}
    drawn = {figure.name: figure for section in page.sections for figure in section.figures}
    asked = {name: ask(warehouse, each.sql) for name, each in (tables | drawn).items()}
    assert all(asked.values())
    assert len(asked["slowest"]) == len(tables["slowest"].rows)
    assert {row[0] for row in asked["served"]} == {row[0].text for row in tables["served"].rows}
    spent = ask(warehouse, "select sum(cost_usd) from ledger")[0][0]
    assert spent in ask(warehouse, page.tiles_sql)[0]
    assert set(QUESTIONS) >= asked.keys()


def test_as_markdown_it_has_the_pages_figures_and_nothing_from_outside(night: RunFacts, copied: Path) -> None:
    text = as_markdown(page_of(night))
    for part in (
        "## Done, exit 0",
        "### What it cost",
        "this run",
        "| whole batch |",
        "### Estimate against actual",
    ):
        assert part in text
    bill = tables.bill(night)
    assert bill is not None
    assert all(cell.text in text for row in bill.rows for cell in row if not MARKS.search(cell.text))
    assert rows_of(bill)[0] == dict(zip(bill.head, (cell.text for cell in bill.rows[0]), strict=True))
    assert not [row["request_id"] for row in (*night.slowest, *night.dearest) if row["request_id"] in text]
    change(copied, "update runs set job = $evil", "update certificates set scorer = $evil", evil=EVIL)
    assert not re.search(r"(?<!\\)<", as_markdown(page_of(load_facts(copied, "demo"))))


def test_floors_that_cost_the_same_are_one_line_and_figures_are_for_people() -> None:
    points = [(0.5 + k / 1000, 0.0123 + k * 1e-7) for k in range(15)] + [(0.9, 1.5)]
    assert by_floor(points) == [{"floor": "0.514", "cost": "$0.0123"}, {"floor": "0.900", "cost": "$1.50"}]


def test_an_id_is_chosen_whole_by_one_click(page: str) -> None:
    chosen = [said for _, said in seen(page).elements if "whole" in (said.get("class") or "").split()]
    assert len(chosen) >= 3 + 2 * 8  # the run, the job's and the input's hash; the slowest and the dearest


def test_a_shard_without_an_end_is_under_way_only_while_its_run_is(copied: Path) -> None:
    change(copied, "update shards set finished_at = null where purpose = 'main'")
    over = rendered(page_of(load_facts(copied, "demo")))
    assert "broke off" in over
    assert "under way" not in over


def test_a_single_claim_is_told_fact_by_fact_so_that_no_screen_cuts_its_verdict(night: RunFacts) -> None:
    claims = claims_of(night)
    assert {row["claim"] for row in claims} >= {"Floor", "Lower bound", "Certified"}
    several = claims_of(replace(night, certificates=[*night.certificates, *night.certificates]))
    assert [row["Floor"] for row in several] == [
        next(r["value"] for r in claims if r["claim"] == "Floor")
    ] * 2
