"""Providers on loopback for tests: the emulated one that ships with the program, ready to be asked.

    from tests.support.servers import cheap, dear, emulated, endpoint

    with emulated([dear(), cheap()], items=rows, seed=7) as emulator:
        endpoint(emulator, "cheap")     # a values.Endpoint that reaches it
        emulator.api_base               # http://127.0.0.1:…/v1
        emulator.books()                # what it billed: a list of dicts, amounts as decimal strings
        emulator.totals()["cheap"]      # requests, statuses, troubles, billed, right, cost_usd, …
        billed_usd(emulator)            # the sum of its books, a Decimal
        chat(emulator, "cheap", "add 1 2", max_tokens=8).text       # asked directly

`items` are `KnownRow(prompt, reference, difficulty)`; `known_items(n)` makes them of the demo's exercises.
`dear(...)` and `cheap(...)` take any field of EmulatedModel; misbehaviour is
`cheap(troubles={Trouble.HANG: 0.05}, hang_seconds=2)`; batches are told by `batches=BatchHabits(...)`.
The server is a process of its own, up in half a second or so: share it among a module's tests where you can.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener
from urllib.request import Request as HttpRequest

from tests.support.patience import PATIENCE_SECONDS
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator, KnownRow
from thirdshift.flows.cli.demo.exercises import Item, items
from thirdshift.router.values import Endpoint, Mode, Price

DEAR = EmulatedModel("dear", Price(Decimal(5), Decimal(25), Decimal("0.5")), ability=1.5, slope=8)
CHEAP = EmulatedModel("cheap", Price(Decimal("0.1"), Decimal("0.4")), ability=0.5, slope=8)


def dear(**changes: Any) -> EmulatedModel:
    """Right at nearly everything, at a frontier model's price."""
    return replace(DEAR, **changes)


def cheap(**changes: Any) -> EmulatedModel:
    """Right at the easy half of the demo's items, at a small model's price."""
    return replace(CHEAP, **changes)


@contextmanager
def emulated(
    models: Sequence[EmulatedModel] = (DEAR, CHEAP),
    *,
    items: Path | Iterable[KnownRow] | None = None,
    outcomes: Path | None = None,
    seed: int = 0,
    batches: BatchHabits | None = None,
) -> Iterator[Emulator]:
    """A running provider; it is gone when the block ends."""
    with Emulator(models, items=items, outcomes=outcomes, seed=seed, batches=batches) as emulator:
        yield emulator


def endpoint(emulator: Emulator, name: str, mode: Mode = Mode.REALTIME, **changes: Any) -> Endpoint:
    """The endpoint that reaches the emulated model `name`, at the price it bills."""
    model = next(model for model in emulator.models if model.name == name)
    made = Endpoint(
        name=name,
        model=f"openai/{name}",
        price=model.price_for(mode),
        mode=mode,
        api_base=emulator.api_base,
        limits=model.limits,
        context_window=model.context_window,
        emulated=True,
    )
    return replace(made, **changes)


def known_items(n: int, seed: int = 3) -> list[KnownRow]:
    """The first `n` of the demo's exercises, with the right answers and difficulties 0..1."""
    return [known(item) for item in items(n, seed)]


def known(item: Item) -> KnownRow:
    return KnownRow(item.prompt, item.reference, item.difficulty, item.request_id)


def billed_usd(emulator: Emulator) -> Decimal:
    """All that the provider billed so far."""
    return sum((Decimal(entry["cost_usd"]) for entry in emulator.books()), Decimal(0))


@dataclass(frozen=True, slots=True)
class Got:
    """A complete HTTP reply."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def text(self) -> str:
        """What a chat completion says."""
        return str(self.json["choices"][0]["message"]["content"])


def fetch(
    url: str, body: object = None, method: str | None = None, content_type: str = "application/json"
) -> Got:
    """One HTTP exchange, whatever its status. `body`: bytes as they are, else sent as JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = HttpRequest(url, data, {"content-type": content_type}, method=method)  # noqa: S310 - loopback
    try:
        with _OPENER.open(request, timeout=PATIENCE_SECONDS) as response:
            return Got(response.status, dict(response.headers), response.read())
    except HTTPError as error:
        with error:
            return Got(error.code, dict(error.headers), error.read())


def chat(emulator: Emulator, model: str, prompt: str, **more: Any) -> Got:
    """One chat completion of a single user message; `more` goes into the body."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
    return fetch(f"{emulator.api_base}/chat/completions", body)


def right_share(emulator: Emulator, model: str, rows: list[KnownRow]) -> float:
    """How many of `rows` a model answers rightly, asked one by one."""
    return sum(chat(emulator, model, str(row.prompt)).text == row.reference for row in rows) / len(rows)


_OPENER = build_opener(ProxyHandler({}))
