"""Print the `models` commands' answers as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thirdshift.flows.models.listing import Listed, ModelOffer, sellers_of, window_of
from thirdshift.flows.models.registry import Registry, plain
from thirdshift.flows.models.updates import spans, usd_text
from thirdshift.router.pricing.catalogue import CatalogueModel, Fact
from thirdshift.router.pricing.pricebook import DAY_NAMES
from thirdshift.router.values import Price

UNKNOWN = "unknown"


def print_listing(known: Registry, rows: Sequence[Listed]) -> None:
    """Print the list as a table, with where its figures come from below."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", max_width=17, overflow="fold")
    table.add_column("lab", overflow="fold")
    table.add_column("licence", overflow="fold")
    table.add_column("context", justify="right")
    table.add_column("USD in/out", justify="right", overflow="fold")
    table.add_column("sold by", max_width=15, overflow="fold")
    table.add_column("prior", justify="right")
    for row in rows:
        table.add_row(*map(Text, _cells(known, row)))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        Text(
            f"{len(rows)} models; catalogue of {known.catalogue.as_of}, prices {plain(known.map.source)}: the cheapest "
            "offer in real time, USD per million tokens. Prior: mean score to expect before anything was observed. "
            "More of one: thirdshift models show NAME"
        )
    )


def print_choices(known: Registry) -> None:
    """Print the licences, labs and origins there are, for a list that came out empty."""
    models = known.catalogue.models
    console = Console(stderr=True, highlight=False)
    console.print("no model fits; a fact that is unknown fits no filter. Known are")
    for word, values in (
        ("licences", {m.licence for m in models if m.licence}),
        ("labs", {m.lab for m in models}),
        ("origins", {known.catalogue.origin(m) for m in models}),
    ):
        console.print(Text(f"  {word}: {', '.join(sorted(values))}"))


def print_model(
    known: Registry, name: str, model: CatalogueModel | None, offers: Sequence[ModelOffer]
) -> None:
    """Print everything known of one model: what it is, facts with sources, prices by litellm's names."""
    console = Console(highlight=False)
    console.print(Text(plain(model.name if model else name), style="bold"))
    if model is None:
        console.print("not in the catalogue: a job must state licence, lab and origin where its policy asks")
    else:
        console.print(_head(known, model, offers))
        console.print(_facts(known, model), Text(""))
    if offers:
        console.print(_prices(offers))
        _print_off_peak(console, offers)
    else:
        console.print(Text("litellm's price map has no name for it: a job must state its price"))
    sources = sorted(
        {price.source for offer in offers for price in offer.prices.values()} or {known.map.source}
    )
    console.print(Text(f"Prices: {plain('; '.join(sources))}. USD per million tokens."))


def _cells(known: Registry, row: Listed) -> tuple[str, ...]:
    model, offer = row.model, row.cheapest
    price = offer.realtime if offer else None
    prior = known.catalogue.priors.get(model.name)
    return (
        model.name,
        f"{model.lab} {known.catalogue.origin(model)}",
        model.licence or UNKNOWN,
        _tokens(window_of(model, offer)),
        f"{float(price.base.input):.3g}/{float(price.base.output):.3g}" if price else UNKNOWN,
        _sellers(row),
        UNKNOWN if prior is None else f"{prior:.2f}",
    )


def _sellers(row: Listed) -> str:
    """The cheapest offer's provider and how many others sell it: `deepinfra +16`."""
    if not row.sellers:
        return UNKNOWN
    first = row.cheapest.provider if row.cheapest else row.sellers[0]
    others = len(set(row.sellers) - {first})
    return plain(first) + (f" +{others}" if others else "")


def _head(known: Registry, model: CatalogueModel, offers: Sequence[ModelOffer]) -> Table:
    window = window_of(model, offers[0] if offers else None)
    prior = known.catalogue.priors.get(model.name)
    table = Table(box=None, pad_edge=False, show_header=False)
    for word, value in (
        ("lab", f"{model.lab} ({known.catalogue.origin(model)})"),
        ("weights", model.weights or UNKNOWN),
        ("licence", model.licence or UNKNOWN),
        ("context", UNKNOWN if window is None else f"{window:,} tokens"),
        ("sold by", ", ".join(map(plain, sellers_of(offers))) or UNKNOWN),
        ("modalities", ", ".join(model.modalities) or UNKNOWN),
        ("prior", UNKNOWN if prior is None else f"{prior:.2f}, from the benchmarks below"),
    ):
        table.add_row(word, Text(value))
    return table


def _facts(known: Registry, model: CatalogueModel) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("fact", "value", "source"):
        table.add_column(title, overflow="fold")
    for fact in model.facts:
        table.add_row(*map(Text, (fact.name, _value(fact), known.catalogue.source_of(fact))))
    return table


def _value(fact: Fact) -> str:
    """Return a fact's value, `74 of 100`, with the source's own words and whether it is relied on."""
    value = fact.value if isinstance(fact.value, str) else f"{fact.value:,.10g}"
    notes = [f'"{fact.says}"' if fact.says else "", "" if fact.kept else "not relied on"]
    note = "; ".join(filter(None, notes))
    return (
        ("about " if fact.approximate else "")
        + value
        + (f" of {fact.out_of:g}" if fact.out_of else "")
        + (f" ({note})" if note else "")
    )


def _prices(offers: Sequence[ModelOffer]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("litellm's name", overflow="fold", min_width=24)
    table.add_column("price", overflow="fold")
    for title in ("in", "out", "cached", "context"):
        table.add_column(title, justify="right")
    for offer in offers:
        name, window = plain(offer.name), _tokens(offer.facts.context_window)
        if not offer.prices:
            table.add_row(Text(name), UNKNOWN, "", "", "", window)
        for mode, schedule in offer.prices.items():
            table.add_row(Text(name), mode.value, *_money(schedule.base), window)
            name = window = ""
            for tier in schedule.tiers:
                table.add_row("", f"{mode.value} above {_tokens(tier.above_tokens)}", *_money(tier.price), "")
    return table


def _money(price: Price) -> tuple[str, str, str]:
    cached = price.input if price.cached_input is None else price.cached_input
    return usd_text(price.input), usd_text(price.output), usd_text(cached)


def _print_off_peak(console: Console, offers: Sequence[ModelOffer]) -> None:
    """Print off-peak hours, offers with the same hours in one line."""
    alike: dict[str, list[str]] = {}
    for offer in offers:
        for mode, schedule in offer.prices.items():
            for rule in schedule.off_peak:
                when = f"{spans(rule.days, DAY_NAMES)} at hours {spans(rule.hours)} {rule.tz}"
                alike.setdefault(f"{mode.value} at {float(rule.factor):.4g} of the price, {when}", []).append(
                    plain(offer.name)
                )
    for rule_text, names in alike.items():
        console.print(Text(f"Off-peak: {rule_text}: {', '.join(names)}"))


def _tokens(count: int | None) -> str:
    """Return a number of tokens in short: 262144 as 262k, 1048576 as 1.05M."""
    if count is None:
        return UNKNOWN
    return f"{count / 1_000_000:.3g}M" if count >= 1_000_000 else f"{count / 1000:.3g}k"


def print_tiers(rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """Print the batch tiers as a table; ?: not known."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("tier", "wire", "windows: discount", "requests · bytes · batches", "expiry"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(table)
    console.print(
        "A job overrides a row for its endpoint (window, limits, price); all of it is in docs/tiers.md."
    )
