"""The `report` command: one HTML page of a run, which needs no network, no script and no other file.

The page is a value (`page_of`), a template fills it (`flows/report/report.html`), and everything a user or a provider wrote
is escaped by the template.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from thirdshift.flows.console import money
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import printable
from thirdshift.flows.report import sentences as words
from thirdshift.flows.report import tables
from thirdshift.flows.report.curves import end_of, lasting
from thirdshift.flows.report.data import Row, RunFacts, night_of
from thirdshift.flows.report.drawing import NARROW, WIDE, Plot
from thirdshift.flows.report.figures import plots
from thirdshift.flows.report.tables import ReportTable
from thirdshift.flows.report.texts import TextSample, samples
from thirdshift.router.certification.certificate import population_sentence
from thirdshift.warehouse.errors import WarehouseError


@dataclass(frozen=True, slots=True)
class Tile:
    what: str
    shown: str
    value: str | None = None
    """The figure in full."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    title: str
    told: str
    wide: str
    """SVG: our own drawing, with the text in it escaped by matplotlib."""
    narrow: str

    @classmethod
    def of(cls, plot: Plot) -> Figure:
        return cls(plot.name, plot.title, plot.told, plot.svg(WIDE), plot.svg(NARROW))


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    title: str
    texts: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    samples: tuple[TextSample, ...] = ()

    @property
    def empty(self) -> bool:
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
    next_steps: tuple[str, ...]
    sections: tuple[Section, ...]
    version: str
    job_hash: str
    input_fingerprint: str
    made: str
    with_texts: bool


def write_report(run_id: str, output: Path, warehouse: Path, *, texts: bool = False) -> int:
    """Write the page; 0. Raises UserError: no such run or warehouse, or the file cannot be written."""
    try:
        night = night_of(warehouse, run_id)
        page = rendered(page_of(night, samples(night, warehouse) if texts else (), with_texts=texts))
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
    print(f"{output}: {words.headline(night).lower()}; open it in a browser")
    return 0


def rendered(page: Page) -> str:
    """The page as HTML text; what a file or a model said steers no terminal that shows it, nor turns its text about."""
    here = files("thirdshift.flows.report")
    css = here.joinpath("report.css").read_text(encoding="utf-8")
    template = here.joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return printable(environment.from_string(template).render(page=page, css=css))


def page_of(night: RunFacts, texts: Sequence[TextSample] = (), *, with_texts: bool = False) -> Page:
    run = night.run
    return Page(
        job=run["job"],
        run_id=run["run_id"],
        headline=words.headline(night),
        good=words.good(night),
        exit=night.exit_code,
        emulation=words.emulation(night),
        tiles=tuple(_tiles(night)),
        next_steps=tuple(words.next_steps(night)),
        sections=tuple(section for section in _sections(night, texts) if not section.empty),
        version=run["version"] or "",
        job_hash=run["job_hash"] or "unknown",
        input_fingerprint=run["input_fingerprint"] or "unknown",
        made=words.instant(night.read_at),
        with_texts=with_texts,
    )


def _tiles(night: RunFacts) -> Iterable[Tile]:
    counts, cap = night.counts, night.run["cap_usd"]
    of = f"of {money(cap)} at most" if cap is not None else "no cap was set"
    if counts["unsettled"]:
        of = f"settled, up to {money(counts['unsettled_usd'])} more unsettled; {of}"
    yield Tile("Spent", money(counts["spent_usd"]), f"{counts['spent_usd']:f}", of)
    best = _best_alone(night)
    if best is not None:
        saved = best["saved_usd"]
        what = "Less than one endpoint" if saved >= 0 else "More than one endpoint"
        note = f"than {best['endpoint']} alone, the cheapest whose pilot cleared the floor"
        if counts["unsettled"]:
            note += f"; by what is settled, {money(best['saved_usd_at_least'])} if all that is unsettled was billed"
        if counts["reused"]:
            note += f"; for {best['requests']:,} requests, {counts['reused']:,} answers were reused"
        yield Tile(what, money(abs(saved)), f"{abs(saved):f}", note)
    overall = night.overall
    if overall is not None:
        state = f"floor {overall['floor']:g}, {'' if overall['certified'] else 'not '}certified"
        if part := population_sentence(overall["population"], overall["requests"]):
            state += f"; {part}"
        bound = overall["lower_bound"]
        yield Tile(words.subject(overall, night.relative_to), f"≥ {words.cut(bound)}", repr(bound), state)
    elif counts["mean_score"] is not None:
        note = f"of {counts['scored']:,} scored; nothing is certified"
        yield Tile("Mean score", f"{counts['mean_score']:.3f}", repr(counts["mean_score"]), note)
    answered = counts["results"] - counts["errors"] if night.over else counts["replied"]
    note = f"of {counts['requests']:,} requests" + (
        f", {counts['errors']:,} errors" if night.over else " so far"
    )
    yield Tile("Answered", f"{answered:,}", str(answered), note)
    seconds = (end_of(night) - night.run["started_at"]).total_seconds()
    yield Tile("Took", lasting(max(seconds, 0.0)), None, "until it was over" if night.over else "so far")


def _best_alone(night: RunFacts) -> Row | None:
    """The cheapest endpoint that alone would have cleared the floor, by the pilot."""
    floor = night.run["floor"]
    if (
        floor is None
        or not night.over
        or words.stopped(night)
        or (night.config.get("quality") or {}).get("relative_to")
    ):
        return None
    known = [row for row in night.bill if row["score"] is not None and row["saved_usd"] is not None]
    return min(
        (row for row in known if row["score"] >= floor), key=lambda row: row["alone_usd"], default=None
    )


def _sections(night: RunFacts, texts: Sequence[TextSample]) -> Iterable[Section]:
    drawn = plots(night)

    def figures(name: str) -> tuple[Figure, ...]:
        return (Figure.of(drawn[name]),) if name in drawn else ()

    def there(*found: ReportTable | None) -> tuple[ReportTable, ...]:
        return tuple(table for table in found if table is not None)

    claims = tuple(words.claim(row, night.relative_to) for row in night.certificates) or (
        words.no_certificate(night),
    )
    t = tables
    yield Section("asked", "What was asked", pairs=tuple(words.asked(night)))
    yield Section("bill", "What it cost", (words.bill(night),), (), figures("bill"), there(t.bill(night)))
    yield Section("quality", "Quality", claims, tables=there(t.certificates(night), t.served(night)))
    yield Section("frontier", "Cost against quality", words.frontier(night), (), figures("frontier"))
    spend = there(t.spend(night), t.spend_by_task(night))
    yield Section("spend", "Spend by endpoint and task", (), (), figures("spend"), spend)
    times = there(t.shards(night), t.workers(night), t.times(night))
    yield Section("timeline", "Timeline", (), (), figures("timeline"), times)
    expected = figures("estimates"), there(t.estimates(night))
    yield Section("estimates", "Estimate against actual", words.estimate(night), (), *expected)
    causes = there(t.unanswered(night), t.failed_attempts(night), t.rejected(night))
    yield Section("failures", "Failures", words.failures(night), tables=causes)
    extremes = there(t.slowest(night), t.dearest(night))
    yield Section("extremes", "The slowest and the dearest", tables=extremes, samples=tuple(texts))
    yield Section("prices", "Prices in force", tables=there(t.prices(night)))
