"""What must hold after every night and after every death, whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from tests.support.simulated.books import Entry
from tests.support.simulated.draw import HOUR
from tests.support.simulated.night import NightStory
from tests.support.simulated.world import LATE_TIMES
from thirdshift.router.values import LedgerStatus, Mode
from thirdshift.warehouse.journal.journal import SYNC_SECONDS

GRACE_SECONDS = 0.5 * HOUR
"""After the deadline, later where the clock is set back: what is in flight is awaited, and batches that are cancelled."""

FORGOTTEN_SECONDS = SYNC_SECONDS * LATE_TIMES + 2.0
"""A journal is synced every second, by a busy machine somewhat later."""

Law = Callable[[NightStory], Iterator[str]]


def it_ends(story: NightStory) -> Iterator[str]:
    """Every night and every resume ends, by its deadline and a grace, and nothing is raised that nobody expects."""
    if story.fault is not None:
        yield story.fault
        return
    late = story.drawn.deadline_seconds
    ended = sum(life.seconds for life in story.lives) + sum(
        death.away_seconds for death in story.drawn.deaths[: len(story.lives) - 1]
    )
    last = story.lives[-1]
    begun = ended - last.seconds
    set_back = max((-by for _, by in story.drawn.jumps), default=0.0)
    if late is not None and ended > max(late, begun) + max(set_back, 0.0) + GRACE_SECONDS:
        yield f"ended {ended - late:.0f} s after its deadline"


def one_result_each(story: NightStory) -> Iterator[str]:
    """A night that nothing stopped leaves no request that somebody could still answer, and none has two results."""
    if story.fault is not None or story.lives[-1].stopped:
        return
    if story.lives[-1].open_rows:
        yield f"{story.lives[-1].open_rows} requests were left though nothing stopped the night"


def books_agree(story: NightStory) -> Iterator[str]:
    """Settled <= the provider's books <= settled + unsettled, at every death and at the end."""
    moments = [*story.after_deaths, (story.entries, _billed(story))]
    for place, (entries, billed) in enumerate(moments):
        settled, most = _settled(entries), _settled(entries) + _unsettled(entries)
        if settled > billed:
            yield f"moment {place}: {settled} USD settled, {billed} billed"
        if billed > most + _forgotten_usd(story):
            yield f"moment {place}: {billed} USD billed, {most} in the books at most"


def cap_is_kept(story: NightStory) -> Iterator[str]:
    """Nothing is spent beyond the cap, not even what only may have been."""
    cap = story.drawn.cap_usd
    if cap is None or story.fault is not None:
        return
    spent = _settled(story.entries) + _unsettled(story.entries)
    if max(spent, _billed(story)) > cap + _forgotten_usd(story):
        yield f"{spent} USD of {cap} in the books, {_billed(story)} billed"


def paid_once(story: NightStory) -> Iterator[str]:
    """No request has two answers that are paid and stay; and what the provider was asked more often is in the books."""
    usable = Counter((entry.row, entry.purpose) for entry in story.entries if entry.usable)
    forgotten = [entry for entry, _ in story.forgotten]
    allowed = Counter((entry.row, entry.purpose) for entry in forgotten)
    twice = [key for key, count in usable.items() if count > 1 + allowed[key]]
    if twice:
        yield f"{len(twice)} requests have several answers: {twice[:3]}"
    entered = Counter(
        entry.endpoint for entry in (*story.entries, *forgotten) if entry.status is not LedgerStatus.VOID
    )
    billed = Counter(entry["model"] for entry in story.billed)
    for name, count in billed.items():
        if count > entered[name]:
            yield f"{name} billed {count} answers, {entered[name]} are in the books"


def little_is_forgotten(story: NightStory) -> Iterator[str]:
    """A machine that dies takes no more with it than what was written since the last sync; a process that dies, nothing."""
    if story.lost_by_process:
        yield f"{story.lost_by_process} entries were forgotten with a process"
    oldest = max((age for _, age in story.forgotten), default=0.0)
    if oldest > FORGOTTEN_SECONDS and not story.drawn.jumps:
        yield f"{len(story.forgotten)} entries were forgotten, the oldest {oldest:.0f} s old"


def batches_are_adopted(story: NightStory) -> Iterator[str]:
    """What a batch tier has of a dead process is taken up by the next: of no attempt at one it is left open what came."""
    tiers = {endpoint.name for endpoint in story.drawn.endpoints if endpoint.mode is Mode.BATCH}
    left = [entry for entry in story.entries if entry.endpoint in tiers and entry.settled_at is None]
    if left and story.lives[-1].ended:
        yield f"{len(left)} attempts at batch tiers have no outcome: {left[0]}"


def each_attempt_once(story: NightStory) -> Iterator[str]:
    """An attempt has one entry, and no shard's part holds another's."""
    if story.repeated:
        yield f"{story.repeated} entries stand twice"


LAWS: Mapping[str, Law] = {
    law.__name__.replace("_", " "): law
    for law in (
        it_ends,
        one_result_each,
        books_agree,
        cap_is_kept,
        paid_once,
        batches_are_adopted,
        each_attempt_once,
        little_is_forgotten,
    )
}


def broken(story: NightStory) -> list[str]:
    """Each broken law with what breaks it."""
    return [f"{name}: {words}" for name, law in LAWS.items() for words in law(story)]


def reached(story: NightStory) -> set[str]:
    """The states that a night went through, by name."""
    states = {f"entry {entry.status}" for entry in story.entries}
    states |= {f"failure {entry.failure_kind}" for entry in story.entries if entry.failure_kind}
    states |= {f"stopped by {kind}" for kind in story.lives[-1].stopped} if story.lives else set()
    states.add(f"{len(story.lives)} lives")
    if any(entry.reply == "answer" for entry in story.entries):
        states.add("answers")
    return states


def _forgotten_usd(story: NightStory) -> Decimal:
    """What stood in the journal's last second, when a machine died: it was sent, and is in no book."""
    return sum((entry.cost_usd for entry, _ in story.forgotten), Decimal(0))


def _billed(story: NightStory) -> Decimal:
    return sum((Decimal(entry["cost_usd"]) for entry in story.billed), Decimal(0))


def _settled(entries: Sequence[Entry]) -> Decimal:
    return sum((entry.cost_usd for entry in entries if entry.status is LedgerStatus.SETTLED), Decimal(0))


def _unsettled(entries: Sequence[Entry]) -> Decimal:
    return sum((entry.cost_usd for entry in entries if entry.status is LedgerStatus.UNSETTLED), Decimal(0))
