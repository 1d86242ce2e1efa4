"""Policy: which endpoints may answer which rows. A fact that is unknown fails the rule that asks for it.

An endpoint counts as self-hosted if its workers are ours (`Endpoint.workers`), or if `facts.self_hosted` says
so. An `api_base` on this machine or a private network is no proof: a gateway there may forward to anyone.
Whoever runs such a server says so in the job, and the job layer sets `facts.self_hosted`.

Several policies at once (the job's and a row's) forbid whatever any of them forbids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.values import Endpoint, Facts

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow list, a deny list, both or neither. Compared without regard to case; None: no such list."""

    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()

    @classmethod
    def of(cls, allow: Sequence[str] | None = None, deny: Sequence[str] = ()) -> Rule:
        allowed = None if allow is None else frozenset(_fold(a) for a in allow)
        return cls(allowed, frozenset(_fold(d) for d in deny))

    @property
    def asks(self) -> bool:
        """Whether the rule says anything: an empty deny list does not, an empty allow list forbids all."""
        return self.allow is not None or bool(self.deny)

    def __and__(self, other: Rule) -> Rule:
        if self.allow is None or other.allow is None:
            allow = other.allow if self.allow is None else self.allow
        else:
            allow = self.allow & other.allow
        return Rule(allow, self.deny | other.deny)


@dataclass(frozen=True, slots=True)
class Policy:
    """The contract's `policy:`. The default allows everything."""

    licences: Rule = Rule()
    labs: Rule = Rule()
    origins: Rule = Rule()
    """The lab's country, ISO 3166 alpha-2."""
    regions: Rule = Rule()
    """Where the endpoint runs."""
    self_hosted_only: bool = False
    zero_retention: bool = False
    max_vendor_share: float | None = None
    """The share of requests for each provider; a matter of the plan, not of single endpoints."""

    def __and__(self, other: Policy) -> Policy:
        """What both allow."""
        shares = [s for s in (self.max_vendor_share, other.max_vendor_share) if s is not None]
        return Policy(
            self.licences & other.licences,
            self.labs & other.labs,
            self.origins & other.origins,
            self.regions & other.regions,
            self.self_hosted_only or other.self_hosted_only,
            self.zero_retention or other.zero_retention,
            min(shares) if shares else None,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """One endpoint refused by one rule."""

    endpoint: str
    rule: str
    why: str


LISTS: Mapping[str, tuple[str, Callable[[Facts], str | None]]] = {
    "licences": ("licence", lambda facts: facts.licence),
    "labs": ("lab", lambda facts: facts.lab),
    "origins": ("origin", lambda facts: facts.origin),
    "regions": ("region", lambda facts: facts.region),
}
"""The rules that are lists: field of `Policy` to what the fact is called and where it is."""


SAME_LAB: Mapping[str, str] = {
    "zhipu": "z.ai",
    "zhipu-ai": "z.ai",
    "zai": "z.ai",
    "qwen": "alibaba",
    "alibaba-cloud": "alibaba",
    "moonshot-ai": "moonshot",
    "moonshotai": "moonshot",
    "deepseek-ai": "deepseek",
    "minimax-ai": "minimax",
    "minimaxai": "minimax",
    "mistral-ai": "mistral",
    "mistralai": "mistral",
    "nous-research": "nous",
    "nousresearch": "nous",
    "google-deepmind": "google",
    "meta-ai": "meta",
}
"""Other names of labs: a deny list that says Zhipu means the lab that the catalogue calls Z.ai."""


def refusals_of(endpoint: Endpoint, policy: Policy) -> tuple[Refusal, ...]:
    """Every rule of `policy` that refuses `endpoint`, with the reason; empty: it is allowed."""
    refusals = []
    for name, (fact, read) in LISTS.items():
        why = _list_refuses(getattr(policy, name), fact, read(endpoint.facts))
        if why is not None:
            refusals.append(Refusal(endpoint.name, name, why))
    if policy.self_hosted_only and not is_self_hosted(endpoint):
        refusals.append(Refusal(endpoint.name, "self_hosted_only", "not known to be self-hosted"))
    if policy.zero_retention and not keeps_nothing(endpoint):
        stated = endpoint.facts.zero_retention
        why = "retention unknown" if stated is None else "keeps what it is sent"
        refusals.append(Refusal(endpoint.name, "zero_retention", why))
    return tuple(refusals)


def most_of_a_vendor(share: float, requests: float) -> int:
    """How many of so many requests one vendor may answer under `max_vendor_share`."""
    return math.floor(share * requests + 1e-9)


def is_self_hosted(endpoint: Endpoint) -> bool:
    """See the module's docstring: our own workers, or said so in the job."""
    return endpoint.workers is not None or endpoint.facts.self_hosted


def keeps_nothing(endpoint: Endpoint) -> bool:
    """Zero retention as stated; our own workers keep nothing beyond the warehouse."""
    if endpoint.facts.zero_retention is None:
        return endpoint.workers is not None
    return endpoint.facts.zero_retention


def eligible(endpoints: Sequence[Endpoint], policy: Policy) -> tuple[Mask, tuple[Refusal, ...]]:
    """`mask[e]`: whether endpoint e is allowed; and every refusal, in the order of endpoints, then rules."""
    refused = [refusals_of(endpoint, policy) for endpoint in endpoints]
    mask = np.array([not r for r in refused], dtype=np.bool_)
    return mask, tuple(refusal for of_one in refused for refusal in of_one)


def masks(endpoints: Sequence[Endpoint], job: Policy, named: Sequence[Policy]) -> Mask:
    """bool[policies, endpoints]: for rows under `named[p]` besides the job's policy, what both allow.

    Row 0 is the job's alone, for rows that name none; row p + 1 is `job & named[p]`.
    """
    combined = (job, *(job & policy for policy in named))
    rows = [eligible(endpoints, policy)[0] for policy in combined]
    return np.array(rows, dtype=np.bool_).reshape(len(combined), len(endpoints))


def say(refusals: Sequence[Refusal]) -> str:
    """One line for people: "2 endpoints refused: kimi (origin CN not in allow), opus (…)"."""
    reasons: dict[str, list[str]] = {}
    for refusal in refusals:
        reasons.setdefault(refusal.endpoint, []).append(refusal.why)
    if not reasons:
        return "no endpoint refused"
    text = ", ".join(f"{name} ({'; '.join(whys)})" for name, whys in reasons.items())
    return f"{len(reasons)} endpoint{'s' if len(reasons) > 1 else ''} refused: {text}"


def _list_refuses(rule: Rule, fact: str, value: str | None) -> str | None:
    if not rule.asks:
        return None
    if value is None:
        return f"{fact} unknown"
    if _fold(value) in rule.deny:
        return f"{fact} {value} in deny"
    if rule.allow is not None and _fold(value) not in rule.allow:
        return f"{fact} {value} not in allow"
    return None


def _fold(name: str) -> str:
    plain = "-".join(name.casefold().replace("_", " ").replace("-", " ").split())
    return SAME_LAB.get(plain, plain)
