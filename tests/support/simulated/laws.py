"""What must hold after every night and after every death, whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from tests.support.simulated.books import Entry
from tests.support.simulated.draw import HOUR
from tests.support.simulated.judging import scores
from tests.support.simulated.night import NightStory
from tests.support.simulated.scores import by_place, observed
from tests.support.simulated.world import EPOCH, LATE_TIMES
from thirdshift.router.certification.judge import verdict
from thirdshift.router.values import FailureKind, LedgerStatus, Mode, Purpose
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
    """Nothing is spent beyond the cap, not even what only may have been. But a machine that dies may forget what came back
    to one shard, and keep what another sent with the money that this had left."""
    cap = story.drawn.cap_usd
    if cap is None or story.fault is not None:
        return
    spent = _settled(story.entries) + _unsettled(story.entries)
    if max(spent - story.unlearnt_usd, _billed(story)) > cap + _forgotten_usd(story):
        yield f"{spent} USD of {cap} in the books, {_billed(story)} billed"


def paid_once(story: NightStory) -> Iterator[str]:
    """No request has two answers that are paid and stay; and what the provider was asked more often is in the books."""
    usable = Counter(_sample(story, entry) for entry in story.entries if entry.usable and not _in_vain(entry))
    forgotten = [entry for entry, _ in story.forgotten]
    allowed = Counter(_sample(story, entry) for entry in forgotten)
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


def judging_is_capped(story: NightStory) -> Iterator[str]:
    """A judge's calls cost no more than judging may, not even what only may have been."""
    paid = story.drawn.paid_scores
    if paid is None or paid.most_usd is None or story.fault is not None:
        return
    spent = sum((entry.cost_usd for entry in story.entries if entry.purpose == Purpose.JUDGE), Decimal(0))
    if spent > paid.most_usd:
        yield f"{spent} USD of {paid.most_usd} went to the judge"


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


def policies_hold(story: NightStory) -> Iterator[str]:
    """No request was ever sent to an endpoint that its policy forbids."""
    places = {endpoint.name: place for place, endpoint in enumerate(story.drawn.endpoints)}
    for entry in story.entries:
        if not story.drawn.allowed[entry.row][places[entry.endpoint]]:
            yield f"row {entry.row} was sent to {entry.endpoint} by {entry.shard_id}"
            return


def bills_agree(story: NightStory) -> Iterator[str]:
    """What is settled of an answer is what the provider billed for it, by its hour."""
    billed = {bill["id"]: Decimal(bill["cost_usd"]) for bill in story.billed}
    for entry in story.entries:
        cost = billed.get(entry.provider_ref or "", entry.cost_usd)
        if entry.status is LedgerStatus.SETTLED and entry.cost_usd != cost:
            yield f"{entry.provider_ref}: {entry.cost_usd} settled, {cost} billed"
            return


def prices_are_waited_for(story: NightStory) -> Iterator[str]:
    """What the plan keeps for an hour with another price is not sent before."""
    drawn = story.drawn
    opens = dict(zip((endpoint.name for endpoint in drawn.endpoints), drawn.opens, strict=True))
    for entry in story.entries:
        planned = {drawn.endpoints[plan[entry.row]].name for plan in (drawn.plan, drawn.later_plan)}
        opens_at = opens[entry.endpoint]
        early = EPOCH + opens_at - entry.started_at
        if opens_at and entry.purpose == Purpose.MAIN and planned == {entry.endpoint} and early > 0.001:
            yield f"row {entry.row} was sent to {entry.endpoint} {early:.0f} s before its price falls"
            return


def scores_are_used(story: NightStory) -> Iterator[str]:
    """Scores say what the provider knows of its answers. What failed was sent to everybody who may answer, and of what
    was sent on the best is served."""
    drawn = story.drawn
    if not drawn.scored or story.fault is not None:
        return
    places = {endpoint.name: place for place, endpoint in enumerate(drawn.endpoints)}
    if drawn.paid_scores is None:
        seen = by_place(observed(story.entries, drawn.endpoints, drawn.requests))
    else:
        seen = scores(drawn.paid_scores, story.entries, drawn.endpoints, story.subjects)
    yield from _untrue(story, seen)
    tried = {(entry.row, places[entry.endpoint]) for entry in story.entries}
    away = {(row, places[name]) for name in _away(story) for row in range(len(drawn.requests))}
    mended = {entry.row for entry in story.entries if entry.usable and entry.purpose == Purpose.REPAIR}
    for row, place in enumerate(story.lives[-1].served_by):
        best = max((value for (other, _), value in seen.items() if other == row), default=None)
        mine = seen.get((row, place))
        if mine is None or best is None:
            continue
        if row in mended and mine < best and not story.lives[-1].stopped:
            yield f"row {row} is served what scores {mine}; {best} is held"
            return
        left = [e for e, may in enumerate(drawn.allowed[row]) if may and (row, e) not in tried | away]
        if not mine and left and not story.lives[-1].stopped:
            yield f"row {row} failed, and {drawn.endpoints[left[0]].name} was not asked"
            return


def _away(story: NightStory) -> set[str]:
    """Endpoints that nobody waits for: they wanted to be left alone, a shard of theirs broke before anything was sent, or
    their batches may be back too late."""
    limited = {entry.endpoint for entry in story.entries if entry.failure_kind == FailureKind.RATE_LIMITED}
    names = {endpoint.name for endpoint in story.drawn.endpoints}
    limited |= {name for name in names if any(f"-{name} failed: " in line for line in story.log)}
    if story.drawn.deadline_seconds is not None:
        limited |= {endpoint.name for endpoint in story.drawn.endpoints if endpoint.mode is Mode.BATCH}
    return limited


def _untrue(story: NightStory, seen: Mapping[tuple[int, int], float]) -> Iterator[str]:
    """Scores that are not what the provider knows. (A baseline's answers need not be right.)"""
    if story.drawn.paid_scores is not None and story.drawn.paid_scores.purpose is Purpose.AUDIT:
        return
    right = {bill["id"]: bool(bill["right"]) for bill in story.billed}
    places = {endpoint.name: place for place, endpoint in enumerate(story.drawn.endpoints)}
    for entry in story.entries:
        mine = seen.get((entry.row, places[entry.endpoint]))
        asked = entry.purpose == Purpose.JUDGE
        if mine is None or asked or not entry.usable or entry.provider_ref not in right:
            continue
        if bool(mine) != right[entry.provider_ref]:
            yield f"row {entry.row} at {entry.endpoint} scores {mine}; it is {right[entry.provider_ref]}"
            return


LAWS: Mapping[str, Law] = {
    law.__name__.replace("_", " "): law
    for law in (
        it_ends,
        one_result_each,
        books_agree,
        cap_is_kept,
        judging_is_capped,
        paid_once,
        batches_are_adopted,
        each_attempt_once,
        little_is_forgotten,
        policies_hold,
        bills_agree,
        prices_are_waited_for,
        scores_are_used,
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
    states |= {f"purpose {entry.purpose}" for entry in story.entries}
    states.add(f"{len(story.lives)} lives")
    if any(entry.reply == "answer" for entry in story.entries):
        states.add("answers")
    return states


def _sample(story: NightStory, entry: Entry) -> tuple[int, str, str]:
    """Of what there may be one answer that is paid and stays: a vote and a repair ask several endpoints, a judge is asked
    about the answers of each."""
    if entry.purpose == Purpose.JUDGE:
        return entry.row, entry.purpose, story.drawn.endpoints[story.subjects[entry.shard_id]].name
    voted = story.drawn.votes[entry.row] or story.drawn.later_votes[entry.row]
    several = voted is not None or entry.purpose == Purpose.REPAIR
    return entry.row, entry.purpose, entry.endpoint if several else ""


def _in_vain(entry: Entry) -> bool:
    """Whether it is a judge's answer that is no verdict: it is asked once more."""
    return entry.purpose == Purpose.JUDGE and verdict(entry.output) is None


def _forgotten_usd(story: NightStory) -> Decimal:
    """What stood in the journal's last second, when a machine died: it was sent, and is in no book."""
    return sum((entry.cost_usd for entry, _ in story.forgotten), Decimal(0))


def _billed(story: NightStory) -> Decimal:
    return sum((Decimal(entry["cost_usd"]) for entry in story.billed), Decimal(0))


def _settled(entries: Sequence[Entry]) -> Decimal:
    return sum((entry.cost_usd for entry in entries if entry.status is LedgerStatus.SETTLED), Decimal(0))


def _unsettled(entries: Sequence[Entry]) -> Decimal:
    return sum((entry.cost_usd for entry in entries if entry.status is LedgerStatus.UNSETTLED), Decimal(0))
