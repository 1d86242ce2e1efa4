"""No endpoint that a rule forbids is ever eligible; what is unknown fails; every refusal has its reason."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router.policy import Policy, Rule, eligible, masks, refusals_of, say
from thirdshift.router.values import Endpoint, Facts, Price, PriceSchedule, WorkerSpec

FREE = PriceSchedule(Price(Decimal(0), Decimal(0)))
LISTS = {
    "licences": ("licence", ["mit", "apache-2.0", "llama4"]),
    "labs": ("lab", ["Z.ai", "DeepSeek", "Mistral"]),
    "origins": ("origin", ["CN", "FR", "US"]),
    "regions": ("region", ["eu", "us"]),
}


def endpoint(name: str = "e", *, workers: bool = False, **facts: object) -> Endpoint:
    own = WorkerSpec("cpu", 1, "python") if workers else None
    return Endpoint(name, "openai/m", FREE, facts=Facts(**facts), workers=own)  # type: ignore[arg-type]


def value(names: list[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(names).map(str.upper) | st.sampled_from(names)


def rule(names: list[str]) -> st.SearchStrategy[Rule]:
    chosen = st.lists(st.sampled_from(names), max_size=3)
    return st.builds(Rule.of, st.none() | chosen, chosen) | st.just(Rule())


facts = st.builds(
    Facts,
    *(value(names) for _, names in LISTS.values()),
    zero_retention=st.none() | st.booleans(),
    self_hosted=st.booleans(),
)
endpoints = st.builds(
    lambda f, own: Endpoint(
        "e", "openai/m", FREE, facts=f, workers=WorkerSpec("cpu", 1, "p") if own else None
    ),
    facts,
    st.booleans(),
)
policies = st.builds(
    Policy,
    *(rule(names) for _, names in LISTS.values()),
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(0.1, 1),
)


def forbidden(endpoint: Endpoint, policy: Policy) -> bool:
    """The rules said again, as plainly as they can be."""
    for field, (fact, _) in LISTS.items():
        asked: Rule = getattr(policy, field)
        known = getattr(endpoint.facts, fact)
        lower = None if known is None else known.lower()
        if asked.allow is not None and lower not in asked.allow:
            return True
        if asked.deny and (lower is None or lower in asked.deny):
            return True
    ours = endpoint.workers is not None
    if policy.self_hosted_only and not (ours or endpoint.facts.self_hosted):
        return True
    keeps = endpoint.facts.zero_retention
    return policy.zero_retention and not (keeps if keeps is not None else ours)


@given(st.lists(endpoints, max_size=5), policies)
def test_an_endpoint_is_eligible_exactly_if_no_rule_forbids_it(some: list[Endpoint], policy: Policy) -> None:
    mask, refusals = eligible(some, policy)
    assert mask.tolist() == [not forbidden(e, policy) for e in some]
    assert bool(refusals) == (not mask.all())


@given(st.lists(endpoints, max_size=4), policies, st.lists(policies, max_size=3))
def test_a_row_s_policy_only_takes_away(some: list[Endpoint], job: Policy, named: list[Policy]) -> None:
    allowed = masks(some, job, named)
    assert allowed.shape == (len(named) + 1, len(some))
    for p, policy in enumerate(named):
        both = [not forbidden(e, job) and not forbidden(e, policy) for e in some]
        assert allowed[p + 1].tolist() == both
        assert not (allowed[p + 1] & ~allowed[0]).any()


@given(endpoints, policies, policies)
def test_two_policies_together_allow_what_both_allow(endpoint: Endpoint, a: Policy, b: Policy) -> None:
    assert bool(refusals_of(endpoint, a & b)) == bool(refusals_of(endpoint, a) or refusals_of(endpoint, b))
    shares = [s for s in (a.max_vendor_share, b.max_vendor_share) if s is not None]
    assert (a & b).max_vendor_share == min(shares, default=None)


def test_each_part_of_a_row_s_policy_counts() -> None:
    loose = Policy()
    for strict in (
        Policy(licences=Rule.of(allow=["mit"])),
        Policy(regions=Rule.of(deny=["us"])),
        Policy(self_hosted_only=True),
        Policy(zero_retention=True),
        Policy(max_vendor_share=0.5),
    ):
        assert loose & strict == strict & loose == strict


def test_no_policy_allows_all_and_an_empty_allow_list_nothing() -> None:
    assert not refusals_of(endpoint(), Policy())
    assert refusals_of(endpoint(licence="mit"), Policy(licences=Rule.of(allow=[])))


def test_an_unknown_fact_fails_a_deny_list_too() -> None:
    (refusal,) = refusals_of(endpoint(), Policy(labs=Rule.of(deny=["DeepSeek"])))
    assert refusal.why == "lab unknown"


def test_a_lab_is_denied_by_any_of_its_names() -> None:
    assert refusals_of(endpoint(lab="Z.ai"), Policy(labs=Rule.of(deny=["Zhipu AI"])))
    assert not refusals_of(endpoint(licence="apache-2.0"), Policy(licences=Rule.of(allow=["Apache 2.0"])))


def test_a_loopback_address_proves_nothing() -> None:
    near = replace(endpoint(), api_base="http://127.0.0.1:8000/v1")
    assert refusals_of(near, Policy(self_hosted_only=True))
    assert not refusals_of(endpoint(self_hosted=True), Policy(self_hosted_only=True))
    assert not refusals_of(endpoint(workers=True), Policy(self_hosted_only=True, zero_retention=True))


def test_refusals_are_said_per_rule_with_the_endpoint_and_its_fact() -> None:
    some = [endpoint("kimi", origin="CN"), endpoint("opus", origin="US"), endpoint("ours")]
    policy = Policy(origins=Rule.of(allow=["US"]), zero_retention=True)
    _, refusals = eligible(some, policy)
    origins = [refusal for refusal in refusals if refusal.rule == "origins"]
    assert say(origins) == "2 endpoints refused: kimi (origin CN not in allow), ours (origin unknown)"
    assert say(refusals).startswith("3 endpoints refused: kimi (origin CN not in allow; retention unknown)")
