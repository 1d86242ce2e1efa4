"""An attempt's two records: what it can cost at most, written before it is sent, and what became of it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

from thirdshift.engines.core.failures import ledger_status
from thirdshift.engines.core.server_words import ServerWords
from thirdshift.engines.core.transport import Reply, within
from thirdshift.router.interfaces import Shard
from thirdshift.router.pricing.pictures import rule_for
from thirdshift.router.pricing.prices import (
    cost_usd,
    price_at,
    price_id,
    sent_bytes,
    worst_case_usd,
    writes_cache,
)
from thirdshift.router.pricing.service import service_of
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    Intent,
    LedgerStatus,
    Mode,
    Outcome,
    Price,
    Request,
    Usage,
    usd,
    usd_up,
)
from thirdshift.world import REAL, World

ZERO = Decimal(0)
_ONE = Decimal(1)

SENT_FACTOR, SENT_MORE = 2, 100_000
"""A usage is believed up to twice what was sent and this: gateways and tools of the server's add to a prompt."""
ASKED_FACTOR, ASKED_MORE = 2, 262_144
"""A usage is believed up to twice what was asked and the longest answer on offer: some count what a model thinks beside
it."""


DEARNESS = {"batch": Decimal(1), "flex": Decimal(1), "default": Decimal(2), "priority": Decimal(5)}
"""What tiers cost against each other where nobody knows the price: the widest gaps in litellm's map, 1.106."""


def overrun_words(intent: Intent, outcome: Outcome) -> str:
    """Say that a provider billed more than its ceiling allowed, and what may be the reason."""
    billed, most = (f"{amount.normalize():f}" for amount in (outcome.cost_usd, intent.reserved_usd))
    verb = "billed" if outcome.certain else "tells figures that contradict each other, and may have billed"
    return (
        f"endpoint {intent.endpoint} {verb} {billed} USD where {most} was the most that could be: it is stopped. Does it "
        "count what it thinks beside max_tokens? State reasoning_tokens_max, and resume"
    )


class AttemptRecords:
    """Writes the records of one endpoint's attempts. `extra_bytes`: what its params add to each; `keep`: the run's folder,
    where what servers said of failures is kept."""

    def __init__(
        self, endpoint: Endpoint, extra_bytes: int = 0, keep: Path | None = None, world: World = REAL
    ) -> None:
        self._endpoint, self._world = endpoint, world
        self._words = None if keep is None else ServerWords(keep, endpoint.api_key_env, world)
        self._provider = endpoint.provider
        self._extra = extra_bytes
        self._picture = rule_for(endpoint.model).ceiling
        self._price_ids: dict[Price, str] = {}
        mode, self._service = service_of(endpoint.mode, endpoint.params, endpoint.api_base)
        self.tier = self._service.tier or ("default" if mode is Mode.REALTIME else mode.value)

    def prompt_bytes(self, request: Request) -> int:
        return sent_bytes(request, self._picture) + self._extra

    def worst_case(self, request: Request, prompt_bytes: int | None = None) -> Decimal:
        """What one attempt at `request` can cost at most."""
        size = self.prompt_bytes(request) if prompt_bytes is None else prompt_bytes
        end = self._endpoint
        return worst_case_usd(
            end.price,
            size,
            request.max_tokens,
            end.reasoning_tokens_max,
            len(request.messages),
            writes_cache=writes_cache(end, request),
        )

    def believed(self, reply: Reply, prompt_bytes: int, max_tokens: int) -> Reply:
        """The reply, its usage only where it can be true of a request of that size."""
        if reply.usage is None:
            return reply
        asked = max_tokens + (self._endpoint.reasoning_tokens_max or 0)
        return within(reply, SENT_FACTOR * prompt_bytes + SENT_MORE, ASKED_FACTOR * asked + ASKED_MORE)

    def intent(
        self,
        shard: Shard,
        request: Request,
        attempt: int,
        reserved: Decimal,
        tokens: int,
        *,
        entry_id: str | None = None,
        at: datetime | None = None,
    ) -> Intent:
        """The record before sending; `tokens`, the input expected, decides which tier's price is named."""
        end, now = self._endpoint, at or self._world.now()
        return Intent(
            entry_id=entry_id or self._world.random_bytes(16).hex(),
            run_id=shard.run_id,
            shard_id=shard.shard_id,
            row=request.row,
            request_id=request.request_id,
            endpoint=end.name,
            model=end.model,
            provider=self._provider,
            mode=end.mode,
            purpose=shard.purpose,
            attempt=attempt,
            reserved_usd=reserved,
            started_at=now,
            price_id=self._price_id(price_at(end.price, now, tokens)),
            region=end.facts.region,
        )

    def outcome(
        self,
        intent: Intent,
        reply: Reply,
        answer: Answer | Failure | None,
        final: bool,
        note: str | None = None,
    ) -> Outcome:
        """The record after: usage at the price in force when it was sent, or without it the ledger's law."""
        status = ledger_status(reply.kind, reply.usage, unbilled=reply.unbilled, certain=reply.certain)
        cost, untold = self._cost(intent, status, reply)
        if untold is not None:
            status = LedgerStatus.UNSETTLED
        if reply.said is not None and self._words is not None:
            self._words.keep(intent, reply)
        notes = (
            [text for text in (reply.note, untold, note) if text] if reply.note or untold or note else None
        )
        return Outcome(
            entry_id=intent.entry_id,
            status=status,
            cost_usd=cost,
            settled_at=self._world.now(),
            usage=reply.usage,
            model_reported=reply.model,
            provider_ref=reply.ref,
            reply=answer,
            final=final,
            service_tier=reply.tier,
            note="; ".join(notes) if notes else None,
        )

    def _cost(self, intent: Intent, status: LedgerStatus, reply: Reply) -> tuple[Decimal, str | None]:
        """(what it cost; why that is only the most it can be, where its tier has no price)."""
        usage = reply.usage
        if usage is None:
            return (ZERO if status is LedgerStatus.VOID else intent.reserved_usd), None
        end, at = self._endpoint, intent.started_at
        own = self._surcharged(cost_usd(price_at(end.price, at, usage.input_tokens), usage), reply)
        if reply.tier is None or reply.tier == self.tier or self._discounted_anyway(reply.tier):
            return self._over_an_edge(own, usage, reply)
        schedule = end.tier_prices.get(reply.tier)
        if schedule is not None:
            return self._surcharged(cost_usd(price_at(schedule, at, usage.input_tokens), usage), reply), None
        times = DEARNESS.get(reply.tier, ZERO) / DEARNESS.get(self.tier, DEARNESS["default"])
        if times <= 1:
            return own, None
        words = f"served at the tier {reply.tier}, whose price is not known: at most {times:g} times"
        return max(usd_up(own * times), intent.reserved_usd), words

    def _over_an_edge(self, own: Decimal, usage: Usage, reply: Reply) -> tuple[Decimal, str | None]:
        """A cost, as `_cost` tells it, of a call that may have begun at one price and ended at another: which of them the
        provider takes is not known. A batch is billed by when it was made."""
        end = self._endpoint
        if not end.price.off_peak or end.mode is Mode.BATCH:
            return own, None
        price = price_at(end.price, self._world.now(), usage.input_tokens)
        later = self._surcharged(cost_usd(price, usage), reply)
        if later == own:
            return own, None
        return max(own, later), "sent at one hour's price and answered at another's: at most the dearer"

    def _surcharged(self, cost: Decimal, reply: Reply) -> Decimal:
        """A cost with the factors of what the reply says of place and speed in place of those that were asked."""
        if reply.place is None and reply.speed is None:
            return cost
        factor = _ONE
        for stated, asked in ((reply.place, self._service.place), (reply.speed, self._service.speed)):
            if stated is not None and (stated or None) != asked:
                known = self._endpoint.surcharges
                factor *= known.get(stated, _ONE) / (known.get(asked, _ONE) if asked else _ONE)
        return cost if factor == _ONE else usd(cost * factor)

    def _discounted_anyway(self, tier: str) -> bool:
        """A provider's own batch tier has its discount whatever a line says: OpenAI's tell `default` there."""
        end = self._endpoint
        return end.mode is Mode.BATCH and end.api_base is None and tier == "default"

    def _price_id(self, price: Price) -> str:
        known = self._price_ids.get(price)
        if known is None:
            known = self._price_ids[price] = price_id(self._endpoint, price)
        return known
