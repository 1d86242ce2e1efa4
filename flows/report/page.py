"""Write one HTML page of a run, which needs no network, no script and no other file: the work of `report`.

The page is a value (`page_of`), a template fills it (`flows/report/report.html`), and everything a user or a provider wrote
is escaped by the template.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from thirdshift.flows.console import money
from thirdshift.flows.errors import UserError, check_names_a_file
from thirdshift.flows.formats import printable
from thirdshift.flows.report import sentences as words
from thirdshift.flows.report import tables
from thirdshift.flows.report.curves import end_of, lasting
from thirdshift.flows.report.data import Row, RunFacts, load_facts
from thirdshift.flows.report.drawing import NARROW, WIDE, Plot
from thirdshift.flows.report.figures import plots
from thirdshift.flows.report.provenance import question
from thirdshift.flows.report.tables import ReportTable
from thirdshift.flows.report.texts import TextSample, samples
from thirdshift.flows.verdicts import floor_words
from thirdshift.router.certification.certificate import population_sentence
from thirdshift.warehouse.errors import WarehouseError


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure at the top of the page."""

    what: str
    shown: str
    value: str | None = None
    """The figure in full."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot drawn for the page, in two widths."""

    name: str
    title: str
    description: str
    wide: str
    """SVG: our own drawing, with the text in it escaped by matplotlib."""
    narrow: str
    sql: str
    """The question that gives what is drawn."""

    @classmethod
    def of(cls, plot: Plot, run_id: str) -> Figure:
        """Draw a plot in both widths."""
        sql = question(plot.name, run_id)
        return cls(plot.name, plot.title, plot.description, plot.svg(WIDE), plot.svg(NARROW), sql)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; empty parts are not shown."""

    name: str
    title: str
    texts: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    samples: tuple[TextSample, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.texts or self.pairs or self.figures or self.tables or self.samples)


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows."""

    job: str
    run_id: str
    headline: str
    good: bool
    exit: int | None
    emulation: str | None
    tiles: tuple[Tile, ...]
    tiles_sql: str
    next_steps: tuple[str, ...]
    sections: tuple[Section, ...]
    version: str
    job_hash: str
    input_fingerprint: str
    made: str
    with_texts: bool


def write_report(run_id: str, output: Path, warehouse: Path, *, texts: bool = False) -> int:
    """Write the page; return 0. Raises UserError: no such run or warehouse, or the file cannot be written."""
    check_names_a_file(output)
    try:
        facts = load_facts(warehouse, run_id)
        page = rendered(page_of(facts, samples(facts, warehouse) if texts else (), with_texts=texts))
    except WarehouseError as error:
        raise UserError(str(error)) from error
    beside = output.with_name(f".{output.name}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        if texts:
            beside.chmod(0o600)  # text of requests is its owner's alone
        os.replace(beside, output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    print(f"{output}: {words.headline(facts).lower()}; open it in a browser")
    return 0


def rendered(page: Page) -> str:
    """The page as HTML text; what a file or a model said steers no terminal that shows it, nor turns its text about."""
    package = files("thirdshift.flows.report")
    css = package.joinpath("report.css").read_text(encoding="utf-8")
    template = package.joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return printable(environment.from_string(template).render(page=page, css=css))


def page_of(facts: RunFacts, texts: Sequence[TextSample] = (), *, with_texts: bool = False) -> Page:
    """Return the page of a run as a value; `with_texts` says that it shows text of requests."""
    run = facts.run
    return Page(
        job=run["job"],
        run_id=run["run_id"],
        headline=words.headline(facts),
        good=words.good(facts),
        exit=facts.exit_code,
        emulation=words.emulation(facts),
        tiles=tuple(tiles(facts)),
        tiles_sql=question("tiles", run["run_id"]),
        next_steps=tuple(words.next_steps(facts)),
        sections=tuple(section for section in _sections(facts, texts) if not section.empty),
        version=run["version"] or "",
        job_hash=run["job_hash"] or "unknown",
        input_fingerprint=run["input_fingerprint"] or "unknown",
        made=words.instant(facts.read_at),
        with_texts=with_texts,
    )


def tiles(facts: RunFacts) -> Iterable[Tile]:
    """Yield the key figures of a run."""
    counts, cap = facts.counts, facts.run["cap_usd"]
    of = f"of {money(cap)} at most" if cap is not None else "no cap was set"
    if counts["unsettled"]:
        of = f"settled, up to {money(counts['unsettled_usd'])} more unsettled; {of}"
    yield Tile("Spent", money(counts["spent_usd"]), f"{counts['spent_usd']:f}", of)
    best = _best_alone(facts)
    if best is not None:
        saved = best["saved_usd"]
        what = "Less than one endpoint" if saved >= 0 else "More than one endpoint"
        note = f"than {best['endpoint']} alone, the cheapest whose pilot cleared the floor"
        if counts["unsettled"]:
            note += f"; by what is settled, {money(best['saved_usd_at_least'])} if all that is unsettled was billed"
        if counts["reused"]:
            note += f"; for {best['requests']:,} requests, {counts['reused']:,} answers were reused"
        yield Tile(what, money(abs(saved)), f"{abs(saved):f}", note)
    overall = facts.overall
    if overall is not None:
        state = floor_words(overall["floor"], certified=overall["certified"])
        if part := population_sentence(overall["population"], overall["requests"]):
            state += f"; {part}"
        bound = overall["lower_bound"]
        yield Tile(words.subject(overall, facts.relative_to), f"≥ {words.cut(bound)}", repr(bound), state)
    elif counts["mean_score"] is not None:
        note = f"of {counts['scored']:,} scored; nothing is certified"
        yield Tile("Mean score", f"{counts['mean_score']:.3f}", repr(counts["mean_score"]), note)
    answered = counts["results"] - counts["errors"] if facts.over else counts["replied"]
    note = f"of {counts['requests']:,} requests" + (
        f", {counts['errors']:,} errors" if facts.over else " so far"
    )
    yield Tile("Answered", f"{answered:,}", str(answered), note)
    seconds = (end_of(facts) - facts.run["started_at"]).total_seconds()
    yield Tile("Took", lasting(max(seconds, 0.0)), None, "until it was over" if facts.over else "so far")


def _best_alone(facts: RunFacts) -> Row | None:
    """Return the cheapest endpoint that by the pilot would have cleared the floor alone; None where none is known."""
    floor = facts.run["floor"]
    if (
        floor is None
        or not facts.over
        or words.stopped(facts)
        or (facts.config.get("quality") or {}).get("relative_to")
    ):
        return None
    known = [row for row in facts.bill if row["score"] is not None and row["saved_usd"] is not None]
    return min(
        (row for row in known if row["score"] >= floor), key=lambda row: row["alone_usd"], default=None
    )


def _sections(facts: RunFacts, texts: Sequence[TextSample]) -> Iterable[Section]:
    drawn, run_id = plots(facts), facts.run["run_id"]

    def figures(name: str) -> tuple[Figure, ...]:
        return (Figure.of(drawn[name], run_id),) if name in drawn else ()

    def present(*candidates: ReportTable | None) -> tuple[ReportTable, ...]:
        found = (table for table in candidates if table is not None)
        return tuple(replace(table, sql=question(table.name, run_id)) for table in found)

    claims = tuple(words.claim(row, facts.relative_to) for row in facts.certificates) or (
        words.no_certificate(facts),
    )
    t = tables
    yield Section("asked", "What was asked", pairs=tuple(words.request_of_run(facts)))
    yield Section("bill", "What it cost", (words.bill(facts),), (), figures("bill"), present(t.bill(facts)))
    yield Section("quality", "Quality", claims, tables=present(t.certificates(facts), t.served(facts)))
    yield Section("frontier", "Cost against quality", words.frontier(facts), (), figures("frontier"))
    spend = present(t.spend(facts), t.spend_by_task(facts))
    yield Section("spend", "Spend by endpoint and task", (), (), figures("spend"), spend)
    times = present(t.shards(facts), t.workers(facts), t.times(facts))
    yield Section("timeline", "Timeline", (), (), figures("timeline"), times)
    expected = figures("estimates"), present(t.estimates(facts))
    yield Section("estimates", "Estimate against actual", words.estimate(facts), (), *expected)
    causes = present(t.unanswered(facts), t.failed_attempts(facts), t.rejected(facts))
    yield Section("failures", "Failures", words.failures(facts), tables=causes)
    extremes = present(t.slowest(facts), t.dearest(facts))
    yield Section("extremes", "The slowest and the dearest", tables=extremes, samples=tuple(texts))
    yield Section("prices", "Prices in force", tables=present(t.prices(facts)))
