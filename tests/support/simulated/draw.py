"""What one night is like, drawn from its seed: endpoints, limits, troubles, habits of batches, the net, the deaths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random

from tests.support.simulated.judging import PaidScores, paid_scores
from tests.support.simulated.provider import HOST, Net
from tests.support.simulated.terms import Votes, waited_for, windowed, within
from tests.support.simulated.terms import policies as drawn_policies
from tests.support.simulated.terms import votes as drawn_votes
from thirdshift.engines.emulator.models import BatchHabits, EmulatedModel, OutputTokens, Trouble
from thirdshift.engines.registry import tier_rows
from thirdshift.router.values import Endpoint, Limits, Mode, Price, PriceSchedule, Request, usd

ROWS = 200
HOUR = 3600.0
ALWAYS_RIGHT = 50.0
"""As able as a model is whose answers nobody compares."""
KEY = "SIMULATED_API_KEY"
WORDS = ["apples", "pears", "plums", "trains", "clocks", "stones", "letters", "rivers"]
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
PASSING = (
    Trouble.ERROR_500, Trouble.ERROR_503, Trouble.ERROR_408, Trouble.ERROR_429, Trouble.ERROR_429_SILENT,
    Trouble.DROP_BEFORE, Trouble.DROP_AFTER, Trouble.HANG, Trouble.TRUNCATE, Trouble.CUT_EMPTY, Trouble.INVALID_JSON,
    Trouble.SLOW,
)  # fmt: skip
ALWAYS = (
    Trouble.ERROR_500, Trouble.ERROR_503, Trouble.ERROR_429, Trouble.ERROR_429_SILENT, Trouble.DROP_BEFORE,
    Trouble.DROP_AFTER, Trouble.HANG, Trouble.TRUNCATE, Trouble.CUT_EMPTY, Trouble.INVALID_JSON, Trouble.REFUSE,
)  # fmt: skip
LASTING = (Trouble.REFUSE, Trouble.OVERFLOW)
TIERS = ("openai", "anthropic", "compatible", "azure")


@dataclass(frozen=True, slots=True)
class Death:
    """How a life ends before its time."""

    steps: int
    """Turns of the loop and operations of the disk that it lives."""
    of_machine: bool
    """What was not synced may be lost."""
    away_seconds: float
    """Until somebody resumes."""
    at_disk: bool = False
    """Of `steps`, operations of the disk alone count: the moments at which most can be left half done."""
    at_scoring: bool = False
    """`steps` count from the moment at which somebody is asked for scores."""


@dataclass(frozen=True, slots=True)
class DrawnNight:
    """Everything about a night but what comes of it."""

    seed: int
    endpoints: tuple[Endpoint, ...]
    models: tuple[EmulatedModel, ...]
    habits: BatchHabits
    net: Net
    requests: tuple[Request, ...]
    plan: tuple[int, ...]
    """By row, the position of the endpoint that is to answer it."""
    later_plan: tuple[int, ...]
    """The same as whoever resumes plans it: prices of a later hour, other beliefs."""
    cap_usd: Decimal | None
    deadline_seconds: float | None
    harvested: bool
    """Whether late batches are cut short."""
    jumps: tuple[tuple[float, float], ...]
    """When the machine's clock is set, and by how much it is then wrong, seconds."""
    deaths: tuple[Death, ...]
    allowed: tuple[tuple[bool, ...], ...]
    """By row, which endpoints its policy lets answer it: one at least."""
    opens: tuple[float, ...]
    """By endpoint, when its price falls if the plan waits for that, seconds since the beginning; 0: it does not."""
    votes: Votes
    """By row, whose answers are compared."""
    later_votes: Votes
    """The same as whoever resumes plans it."""
    scored: bool
    """Every answer is scored at no cost, and what fails is sent on."""
    paid_scores: PaidScores | None = None
    """Some answers are, by whom that is paid for, and instead."""

    @property
    def faults(self) -> set[str]:
        """What can go wrong, and what a job asks besides, by name."""
        troubles = {trouble.value for model in self.models for trouble in model.troubles}
        net, habits = self.net, self.habits
        named = {
            "refused": net.refused, "lost on the way": net.lost_there, "lost on the way back": net.lost_back,
            "lies": net.lies, "outage": net.outage, "results gone": net.gone, "stuck batch": habits.stuck_at is not None,
            "failing lines": habits.failed_share, "creation unheard of": habits.lost_creates,
            "full queue": habits.enqueued_tokens, "clock set": self.jumps, "process killed": self.deaths,
            "machine killed": any(death.of_machine for death in self.deaths),
            "policies": not all(map(all, self.allowed)),
            "windows of price": any(end.price.off_peak for end in self.endpoints),
            "votes": any(self.votes), "scores": self.scored,
            "paid scores": self.paid_scores,
        }  # fmt: skip
        return troubles | {name for name, has in named.items() if has}


def drawn(seed: int) -> DrawnNight:
    rng = Random(f"night {seed}")
    kinds = [Mode.REALTIME] + [
        rng.choice((Mode.REALTIME, Mode.BATCH)) for _ in range(rng.choice((0, 1, 1, 2)))
    ]
    if rng.random() < 0.2:
        kinds = [Mode.BATCH]
    hours = rng.random() < 0.1
    models = tuple(
        _model(rng, f"{mode.value}-{place}", mode, hours=hours) for place, mode in enumerate(kinds)
    )
    endpoints = tuple(_endpoint(rng, mode, model) for mode, model in zip(kinds, models, strict=True))
    requests = tuple(_request(rng, row) for row in range(ROWS))
    first = rng.randrange(len(kinds))
    spread = rng.random() < 0.5
    more = Random(f"terms {seed}")
    allowed = drawn_policies(more, ROWS, len(kinds))
    plan = within(more, allowed, tuple(rng.randrange(len(kinds)) if spread else first for _ in range(ROWS)))
    expected = sum(_expected_usd(endpoints[e], request) for e, request in zip(plan, requests, strict=True))
    cap = None if rng.random() < 0.4 else usd(expected * 10 ** rng.uniform(-0.7, 1.2))
    deadline = None if rng.random() < 0.5 else 10 ** rng.uniform(2.0, 4.3)
    habits, net = _habits(rng), _net(rng)
    later = tuple(rng.randrange(len(kinds)) for _ in range(ROWS))
    later_plan = plan if rng.random() < 0.5 else within(more, allowed, later)
    harvested = deadline is not None and kinds[0] is Mode.REALTIME and rng.random() < 0.7
    jumps = _jumps(rng)
    endpoints, models = windowed(more, endpoints, models, jumps)
    votes = drawn_votes(more, plan, allowed, endpoints)
    scored = more.random() < 0.4
    paid = paid_scores(more, endpoints, expected) if scored else None
    deaths = [_death(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
    if paid is not None:
        deaths = [replace(death, at_scoring=more.random() < 0.5) for death in deaths]
    if scored or any(votes):
        models = tuple(replace(model, ability=more.choice((ALWAYS_RIGHT, 1.0, -0.5))) for model in models)
    return DrawnNight(
        seed,
        endpoints,
        models,
        habits,
        net,
        requests,
        plan,
        later_plan,
        cap,
        deadline,
        harvested=harvested,
        jumps=jumps,
        deaths=tuple(deaths),
        allowed=allowed,
        opens=waited_for(more, endpoints, deadline),
        votes=votes,
        later_votes=votes if later_plan is plan else drawn_votes(more, later_plan, allowed, endpoints),
        scored=scored,
        paid_scores=paid,
    )


def _share(rng: Random, chance: float, most: float) -> float:
    """With that chance a share up to `most`, small ones likelier; else none."""
    return round(most * rng.random() ** 2, 4) if rng.random() < chance else 0.0


def _model(rng: Random, name: str, mode: Mode, *, hours: bool) -> EmulatedModel:
    """`hours`: its one trouble is that it wants to be left alone for hours now and then."""
    price = Price(Decimal(rng.choice(("0.1", "1", "3"))), Decimal(rng.choice(("0.4", "4", "15"))))
    passing = {trouble: _share(rng, 0.15, 0.2) for trouble in PASSING}
    lasting = {trouble: _share(rng, 0.1, 0.1) for trouble in LASTING}
    if rng.random() < 0.05:  # an endpoint that gives nothing else
        lasting = {rng.choice(ALWAYS): 1.0}
        passing = {}
    elif hours:
        lasting, passing = {}, {Trouble.ERROR_429: 0.01}
    limits = Limits(
        rpm=rng.choice((None, None, 120, 600)),
        tpm=rng.choice((None, None, 20_000)),
        concurrency=rng.choice((None, None, 8, 50)),
    )
    return EmulatedModel(
        name=name,
        price=price,
        ability=ALWAYS_RIGHT,
        batch_price=price if mode is Mode.BATCH else None,
        output=OutputTokens(median=rng.choice((1.0, 40.0)), spread=0.5, fits=True),
        latency_seconds=rng.choice((0.0, 0.3, 2.0)),
        seconds_per_token=rng.choice((0.0, 0.01)),
        limits=limits if mode is Mode.REALTIME else Limits(),
        troubles={trouble: rate for trouble, rate in (lasting | passing).items() if rate},
        retry_after_seconds=7200.0 if hours else rng.choice((1.0, 1.0, 20.0, 7200.0)),
        hang_seconds=HOUR,
        harsh=0.0,
        lenient=0.0,
    )


def _endpoint(rng: Random, mode: Mode, model: EmulatedModel) -> Endpoint:
    tier = tier_rows().named(rng.choice(TIERS)) if mode is Mode.BATCH else None
    wire = "anthropic" if tier is not None and tier.wire == "anthropic" else "openai"
    stated = model.limits if rng.random() < 0.5 else Limits()
    if mode is Mode.BATCH:
        stated = Limits(enqueued_tokens=rng.choice((None, None, 4_000)))
    price = model.price if isinstance(model.price, Price) else model.price.base
    return Endpoint(
        model.name,
        f"{wire}/{model.name}",
        PriceSchedule(price),
        mode,
        api_base=f"http://{HOST}/at/{model.name}/v1",
        api_key_env=KEY,
        limits=stated,
        tier=tier,
    )


def _habits(rng: Random) -> BatchHabits:
    stuck = rng.random() < 0.2
    return BatchHabits(
        turnaround_seconds=10 ** rng.uniform(0.0, 4.0),
        validating_seconds=rng.choice((0.0, 5.0)),
        failed_share=_share(rng, 0.3, 0.5),
        stuck_at=rng.random() if stuck else None,
        stuck_batches=rng.random() if stuck else 1.0,
        expires_seconds=rng.choice((600.0, HOUR, 3 * HOUR, 3 * HOUR if stuck else 24 * HOUR)),
        cancel_seconds=rng.choice((0.0, 5.0, 300.0, 2000.0)),
        cancel_goes_on=rng.random() < 0.5,
        enqueued_tokens=rng.choice((None, None, None, 3_000)),
        lost_creates=rng.choice((0, 0, 0, 1, 3)),
    )


def _net(rng: Random) -> Net:
    outage = None
    if rng.random() < 0.2:
        start = 10 ** rng.uniform(0.0, 4.0)
        outage = start, start + 10 ** rng.uniform(0.5, 4.0)
    return Net(
        (0.01, rng.choice((0.05, 1.0))),
        refused=_share(rng, 0.2, 0.3),
        lost_there=_share(rng, 0.2, 0.2),
        lost_back=_share(rng, 0.2, 0.2),
        lies=_share(rng, 0.2, 0.2),
        outage=outage,
        gone=_share(rng, 0.1, 0.8),
    )


def _jumps(rng: Random) -> tuple[tuple[float, float], ...]:
    count = rng.choice((0, 0, 0, 1, 2))
    return tuple(
        sorted((10 ** rng.uniform(0.0, 4.0), rng.uniform(-2 * HOUR, 2 * HOUR)) for _ in range(count))
    )


def _death(rng: Random) -> Death:
    away = rng.choice((1.0, 60.0, HOUR, 30 * HOUR))
    at_disk = rng.random() < 0.5
    steps = int(10 ** rng.uniform(0.3, 2.2 if at_disk else 3.5))
    return Death(steps, rng.random() < 0.4, away, at_disk)


def _request(rng: Random, row: int) -> Request:
    text = f"{row}: how many {' '.join(rng.choices(WORDS, k=rng.randint(2, 40)))} are there?"
    schema = SCHEMA if rng.random() < 0.1 else None
    messages = ({"role": "user", "content": text},)
    return Request(row, f"r{row}", f"h{row}", "t", messages, rng.choice((16, 64)), response_schema=schema)


def _expected_usd(endpoint: Endpoint, request: Request) -> float:
    price = endpoint.price.base
    return (60 * float(price.input) + 40 * float(price.output)) / 1e6
