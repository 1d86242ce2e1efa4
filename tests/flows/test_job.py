"""The job file: every kind of mistake at its place, all at once; what a good one becomes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import TESTS
from tests.support.workers import worker_endpoint
from thirdshift.flows.errors import JobError, UserError
from thirdshift.flows.jobs.building import (
    KnownModel,
    books,
    endpoint_value,
    endpoint_values,
    input_spec,
    policies_of,
    scorer_of,
)
from thirdshift.flows.jobs.job import Job, load_job
from thirdshift.flows.jobs.messages import keys_at
from thirdshift.flows.jobs.parsing import read
from thirdshift.flows.jobs.unsupported import NOT_YET
from thirdshift.flows.runs.ids import checked_run_id, derive_run_id, named_after
from thirdshift.flows.runs.spot_prices import price_now, with_spot_price
from thirdshift.router.policy import Rule
from thirdshift.router.pricing.pricebook import Override
from thirdshift.router.values import Facts, Mode, Price, PriceSchedule
from thirdshift.warehouse.intake.intake import SqlSource

GOOD = """\
name: triage
input: tickets.parquet
endpoints:
  - name: flash
    model: openai/flash
    api_base: http://127.0.0.1:1/v1
    price: {input: 0.14, output: 0.28}
"""
HERE = TESTS / "jobs"


def job(folder: Path, text: str, **params: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, params, environ={"SET": "a-key"})


def mistakes(folder: Path, text: str, **params: str) -> dict[str, str]:
    """Place to what is said of it, where the input is there."""
    (folder / "tickets.parquet").touch()
    (folder / "wrong.json").write_text('{"type": 5}')
    with pytest.raises(JobError) as caught:
        job(folder, text, **params)
    assert caught.value.exit_code == 2
    return {one.place: one.what for one in caught.value.mistakes}


def on_endpoint(lines: str) -> str:
    return GOOD + "".join(f"    {line}\n" for line in lines.splitlines())


NO_BASE = GOOD.replace("    api_base: http://127.0.0.1:1/v1\n", "")
WORKER = "  - {name: house, engine: vllm, model: m, "

ONE_MISTAKE = [
    # unknown keys, missing keys, wrong types
    (GOOD + "qualty: {}\n", "qualty", "did you mean quality?"),
    (on_endpoint("limits: {rmp: 3}"), "endpoints[0].limits.rmp", "did you mean rpm?"),
    (GOOD.replace("output: 0.28", "inptu: 1, output: 1"), "endpoints[0].price.inptu", "did you mean input?"),
    (GOOD + "policies: {pii: {self_hostd: true}}\n", "policies.pii.self_hostd", "mean self_hosted_only?"),
    (GOOD + "quality: {zzz: 1}\n", "quality.zzz", "keys here are audit, confidence"),
    (GOOD.replace("    model: openai/flash\n", ""), "endpoints[0].model", "is required"),
    (GOOD.replace("input: tickets.parquet\n", ""), "input", "is required"),
    (GOOD + "input: {sql: select 1}\n", "input", "given twice"),
    (GOOD.replace("tickets.parquet", "{attach: {}}"), "input.sql", "is required"),
    (GOOD.replace("tickets.parquet", "[a, b]"), "input", "must be text, is a list"),
    (GOOD + "dedupe: no\n", "dedupe", "must be true or false, is text"),
    (GOOD + "request: {max_tokens: 10.5}\n", "request.max_tokens", "must be a whole number, is 10.5"),
    (GOOD + "request: {max_tokens: true}\n", "request.max_tokens", "must be a whole number, is true"),
    (GOOD + "request: {max_tokens: 0}\n", "request.max_tokens", "must be at least 1, is 0"),
    (GOOD + "request: {temperature: hot}\n", "request.temperature", "must be a number, is text"),
    (GOOD + "request: {id: []}\n", "request.id", "is empty"),
    (GOOD + "budget: 5\n", "budget", "must be keys and values, is 5"),
    (GOOD + "budget: {cap_usd: -1}\n", "budget.cap_usd", "must be at least 0, is -1"),
    (GOOD + "budget: {cap_usd: much}\n", "budget.cap_usd", "must be a number, is text"),
    (GOOD + "budget: {cap_usd: '5'}\n", "budget.cap_usd", "is text; without quotes it is a number"),
    (GOOD + "budget: {approve_above_usd: '5'}\n", "budget.approve_above_usd", "must be a number, is text"),
    (GOOD.replace("0.14", "'0.14'"), "endpoints[0].price.input", "must be a number, is text; without quotes"),
    (on_endpoint("off_peak: {factor: '0.5'}"), "endpoints[0].off_peak.factor", "must be a number, is text"),
    (GOOD + "request: {max_tokens: '9'}\n", "request.max_tokens", "is text; without quotes it is a number"),
    (GOOD + "quality: {floor: '0.9'}\n", "quality.floor", "is text; without quotes it is a number"),
    (GOOD + "quality: {floor: 1.01}\n", "quality.floor", "must be at most 1.0, is 1.01"),
    (GOOD + "quality: {floor: 90}\n", "quality.floor", "must be at most 1.0, is 90"),
    (GOOD + "quality: {confidence: 1}\n", "quality.confidence", "must be below 1"),
    (GOOD + "quality: {audit: some}\n", "quality.audit", "must be a whole number, is text"),
    (GOOD + "quality: {pilot: -1}\n", "quality.pilot", "must be at least 0, is -1"),
    (GOOD + "tolerate: {errors: -0.1}\n", "tolerate.errors", "must be at least 0"),
    (GOOD + "on_deadline: stopp\n", "on_deadline", "did you mean stop?"),
    (GOOD + "name2: x\n", "name2", "did you mean name?"),
    (GOOD.replace("triage", "a/b", 1), "name", "names files"),
    (GOOD.replace("name: flash", "name: fl/sh"), "endpoints[0].name", "names files"),
    (GOOD.split("endpoints", maxsplit=1)[0], "endpoints", "is required"),
    (GOOD.split("endpoints", maxsplit=1)[0] + "endpoints: []\n", "endpoints", "is empty"),
    (on_endpoint("mode: batch\nturnaround: soon"), "endpoints[0].turnaround", "is no time; write it like 90d"),
    # keys of batches where there are none
    (on_endpoint("turnaround: 4h"), "endpoints[0].turnaround", "is of batches; it wants mode: batch"),
    (on_endpoint("mode: flex\nturnaround: 4h"), "endpoints[0].turnaround", "it wants mode: batch"),
    (on_endpoint("delete_remote: true"), "endpoints[0].delete_remote", "it wants mode: batch"),
    (on_endpoint("limits: {enqueued_tokens: 9}"), "endpoints[0].limits.enqueued_tokens", "it wants mode: batch"),
    (
        GOOD + WORKER + "device: cpu, usd_per_hour: 1, delete_remote: true}\n",
        "endpoints[1].delete_remote",
        "it wants mode: batch",
    ),
    # a worker's limits are vLLM's to say
    (
        GOOD + WORKER + "device: cpu, usd_per_hour: 1, limits: {concurrency: 8}}\n",
        "endpoints[1].limits.concurrency",
        "vllm: {max_num_seqs: …}",
    ),
    (
        GOOD + WORKER + "device: cpu, usd_per_hour: 1, minimum_minutes: 1e30}\n",
        "endpoints[1].minimum_minutes",
        "must be at most",
    ),
    (
        GOOD + WORKER + "device: cpu, usd_per_hour: 1, workers: 1000000}\n",
        "endpoints[1].workers",
        "is a number from 1 to 999,999",
    ),
    (GOOD + "request: {max_tokens: 2147483648}\n", "request.max_tokens", "must be at most 2147483647"),
    # prices and hours
    (GOOD.replace("0.14", "-0.14"), "endpoints[0].price.input", "must be at least 0"),
    (on_endpoint("off_peak: {factor: 0.5, hours: [25]}"), "endpoints[0].off_peak.hours[0]", "no hour"),
    (on_endpoint("off_peak: {factor: 0.5, tz: UTX}"), "endpoints[0].off_peak.tz", "zone called 'UTX'"),
    (on_endpoint("off_peak: {factor: 0.5, days: [mo]}"), "endpoints[0].off_peak.days[0]", "mean mon?"),
    (GOOD.replace("0.14", "1e12"), "endpoints[0].price.input", "must be below 1000000"),
    (GOOD + "budget: {cap_usd: 1e30}\n", "budget.cap_usd", "must be below 1000000000"),
    # one thing and another
    (GOOD + GOOD.split("endpoints:\n")[1], "endpoints[0].name", "more than one endpoint is called flash"),
    (GOOD + "quality: {relative_to: flsh}\n", "quality.relative_to", "did you mean flash?"),
    (GOOD + "quality: {scorer: exakt}\n", "quality.scorer", "no scorer called 'exakt'; scorers are exact"),
    (GOOD + "quality: {scorer: exakt}\n", "quality.scorer", "did you mean exact?"),
    (GOOD + "quality: {scorer: regex, pattern: '('}\n", "quality.pattern", "is no regular expression"),
    (GOOD + "quality: {scorer: exact, pattern: 'a'}\n", "quality.pattern", "is for scorer regex"),
    (GOOD + "quality: {scorer: fields, fields: {}}\n", "quality.scorer", "needs quality.fields"),
    (on_endpoint("params: {extra_body: {max_tokens: 9000}}"), "endpoints[0].params", "may not set max_tokens"),
    (GOOD + "warehouse_copy: ./warehouse.duckdb\n", "warehouse_copy", "is the warehouse itself"),
    (GOOD + "warehouse_copy: s3://lake/copy.duckdb\n", "warehouse_copy", "on a disk of this machine, no URI"),
    (GOOD + "warehouse: s3://lake/w.duckdb\n", "warehouse", "on a disk of this machine, no URI"),
    (GOOD + "warehouse_copy: tickets.parquet\n", "warehouse_copy", "is the input itself"),
    (GOOD.replace("tickets.parquet", ".") + "output: {path: out}\n", "output.path", "is within input ."),
    (GOOD.replace("tickets.parquet", "s3://b/in/") + "output: {path: s3://b/in/out}\n", "output.path", "is within"),
    (GOOD + "policy: {labs: {allow: [a], deny: [b]}}\n", "policy.labs", "is an allow or a deny"),
    (GOOD + "policy: {labs: {}}\n", "policy.labs", "is an allow or a deny"),
    (GOOD + "policy: {labs: [a]}\n", "policy.labs", "must be keys and values, is a list"),
    (GOOD + "policies: {pii: {origins: {alow: [FR]}}}\n", "policies.pii.origins.alow", "did you mean allow?"),
    (GOOD + "policy: {max_vendor_share: 1.5}\n", "policy.max_vendor_share", "must be at most 1"),
    (GOOD + 'request: {prompt: "{a.b}"}\n', "request.prompt", "{a.b} is no plain column name"),
    (GOOD + 'request: {prompt: "{a!r}"}\n', "request.prompt", "is no plain column name"),
    (GOOD + 'request: {prompt: "{a:>9}"}\n', "request.prompt", "is no plain column name"),
    (GOOD + 'request: {prompt: "{}"}\n', "request.prompt", "is no plain column name"),
    (GOOD + 'request: {prompt: "{a"}\n', "request.prompt", "a brace that is meant as such is written twice"),
    (GOOD + 'request: {prompt: "hello"}\n', "request.prompt", "names no column"),
    # deadlines
    (GOOD + "deadline: soon\n", "deadline", "'soon' is no deadline"),
    (GOOD + "deadline: 06:00\n", "deadline", "says no time zone"),
    (GOOD + "deadline: 25:00 UTC\n", "deadline", "is no time of day"),
    (GOOD + "deadline: 06:00 Europe/Berln\n", "deadline", "no time zone called 'Europe/Berln'"),
    (GOOD + "deadline: 0001-01-01T00:00:00+14:00\n", "deadline", "is out of the calendar"),
    (GOOD + "deadline: 2026-11-23T06:00:00\n", "deadline", "says no time zone"),
    # workers
    (GOOD + WORKER + "usd_per_hour: 1}\n", "endpoints[1].device", "devices are cuda, npu, cpu"),
    (GOOD + WORKER + "device: gpu, usd_per_hour: 1}\n", "endpoints[1].device", "is none of cuda, npu, cpu"),
    (GOOD + WORKER + "device: cpu}\n", "endpoints[1].usd_per_hour", "is required"),
    (GOOD + WORKER + "device: cpu, usd_per_hour: 1, api_base: http://x}\n", "endpoints[1].api_base", "go"),
    (GOOD + WORKER + "device: npu, usd_per_hour: 1, usd_per_kwh: 0.3}\n", "endpoints[1].usd_per_kwh", "device: cuda"),
    (GOOD + WORKER + "device: cpu, accounting_usd_per_hour: 1, spot_price: ./now}\n", "endpoints[1].spot_price", "needs"),
    (GOOD + WORKER + "device: cpu, usd_per_hour: 1, price_per: rack}\n", "endpoints[1].price_per", "worker, node"),
    (on_endpoint("billing_increment_minutes: 60"), "endpoints[0].billing_increment_minutes", "is for engine: vllm"),
    (on_endpoint("device: cpu"), "endpoints[0].device", "is for engine: vllm"),
    (on_endpoint("engine: vlm"), "endpoints[0].engine", "can only be vllm"),
    # keys
    (on_endpoint("api_key_env: NOT_SET"), "endpoints[0].api_key_env", "the variable NOT_SET is not set"),
    (on_endpoint("params: {api_key: sk-1}"), "endpoints[0].params.api_key", "looks like a key"),
    (GOOD.replace("http://127", "http://me:pw@127"), "endpoints[0].api_base", "holds a user or password"),
    (NO_BASE, "endpoints[0].api_key_env", "export OPENAI_API_KEY="),
    (GOOD.replace("http://127.0.0.1:1/v1", "127.0.0.1"), "endpoints[0].api_base", "must be a URL"),
    # files
    (GOOD + "request: {response_schema: nope.json}\n", "request.response_schema", "no file nope.json"),
    (GOOD + "request: {response_schema: job.yaml}\n", "request.response_schema", "is no valid JSON"),
    (GOOD + "request: {response_schema: wrong.json}\n", "request.response_schema", "is no valid JSON schema"),
    (GOOD + "request: {system: prompts/nope.md}\n", "request.system", "no file prompts/nope.md"),
    # params
    (GOOD + "params: {ds: null}\n", "params.ds", "no value; give it: --param ds="),
    (GOOD.replace("tickets", "${dz}") + "params: {ds: a}\n", "input", "did you mean ds?"),
    (GOOD + "params: {ds: a}\ntags: {'${dz}': x}\n", "tags.${dz}", "did you mean ds?"),
    (GOOD + "params: {ds: [a]}\n", "params.ds", "is one value"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "said"), ONE_MISTAKE, ids=[f"{p}: {s}" for _, p, s in ONE_MISTAKE])
def test_a_mistake_is_told_once_at_its_place(tmp_path: Path, text: str, place: str, said: str) -> None:
    found = mistakes(tmp_path, text)
    assert list(found) == [place]
    assert said in found[place]


def test_all_mistakes_are_told_at_once_with_their_lines() -> None:
    with pytest.raises(JobError) as caught:
        load_job(HERE / "many_mistakes.yaml", {"day": "monday"}, environ={})
    told = [(one.line, one.place) for one in caught.value.mistakes]
    expected = json.loads((HERE / "many_mistakes.json").read_text(encoding="utf-8"))
    assert told == [tuple(one) for one in expected]
    assert str(caught.value).count("\n") == len(told)


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "a job is keys and values" in mistakes(tmp_path, text)[""]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: x\ninput: [a\n", 3),
        ("name: x\ninput: a: b\n", 2),
        ("name: x\n\tinput: y\n", 2),
        ("a: *b\n", 1),
    ],
)
def test_broken_yaml_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(JobError, match="no valid YAML") as caught:
        job(tmp_path, text)
    assert [one.line for one in caught.value.mistakes] == [line]


def test_a_job_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert "contains itself" in mistakes(tmp_path, "a: &a\n  b: *a\n")[""]


CONTRACT: dict[str, Any] = read(HERE / "contract.yaml", {"ds": "2026-11-22"}).data
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING = st.recursive(
    VALUES, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of)
)


def places(data: Any, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for step, value in inner:
        yield (*loc, step)
        yield from places(value, (*loc, step))


@given(loc=st.sampled_from(list(places(CONTRACT))), value=ANYTHING)
def test_whatever_stands_at_a_place_is_a_job_or_its_mistakes(
    tmp_path_factory: pytest.TempPathFactory, loc: tuple[str | int, ...], value: object
) -> None:
    changed: Any = copy.deepcopy(CONTRACT)
    inside = changed
    for step in loc[:-1]:
        inside = inside[step]
    inside[loc[-1]] = value
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(JobError, match=r"job\.yaml has"):  # of what does not work yet, whatever else
        load_job(path, {"ds": "x"}, environ={})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nope\.yaml has a mistake:\n  no such file"):
        load_job(tmp_path / "nope.yaml")


@pytest.mark.parametrize("secret", ["sk-proj-4711", "hf_0123456789abcdef"])
def test_a_key_where_a_variable_belongs_is_not_repeated(tmp_path: Path, secret: str) -> None:
    with pytest.raises(JobError, match="never a key") as caught:
        job(tmp_path, on_endpoint(f"api_key_env: {secret}"))
    assert secret not in str(caught.value)


def test_a_function_of_the_users_is_imported_from_the_jobs_folder(tmp_path: Path) -> None:
    (tmp_path / "scores_of_mine.py").write_text("def halves(output, reference, request):\n    return 0.5\n")
    (tmp_path / "broken_scores.py").write_text("1 / 0\n")
    scorer = scorer_of(job(tmp_path, GOOD + "quality: {scorer: 'scores_of_mine:halves'}\n"))
    assert scorer is not None
    assert scorer.function is not None
    assert scorer.function("x", None, {}) == 0.5
    for name, what in {
        "scores_of_mine:halfs": "no function 'halfs'; did you mean halves?",
        "nowhere_at_all:f": "no module nowhere_at_all in",
        "broken_scores:f": "importing broken_scores raised ZeroDivisionError",
    }.items():
        assert what in mistakes(tmp_path, GOOD + f"quality: {{scorer: '{name}'}}\n")["quality.scorer"]


def test_a_judge_needs_a_rubric_and_may_only_judge(tmp_path: Path) -> None:
    judged = "quality: {scorer: judge, judge: {endpoint: wise, rubric: %s}}\n"
    wise = "  - {name: wise, only: judge, model: openai/w, api_base: http://127.0.0.1:1/v1, price: {input: 1, output: 1}}\n"
    assert "no file r.md" in mistakes(tmp_path, GOOD + wise + judged % "r.md")["quality.judge.rubric"]
    (tmp_path / "r.md").write_text("Is it polite?\n")
    loaded = job(tmp_path, GOOD + wise + judged % "r.md")
    assert loaded.quality.judge is not None
    assert loaded.quality.judge.rubric == "Is it polite?\n"
    assert [each.name for each in endpoint_values(loaded, *books())] == ["flash"]
    cheaper = job(tmp_path, GOOD + wise + judged % "r.md, max_usd: 1")
    assert cheaper.job_hash == loaded.job_hash, (
        "what judging may cost can change between a run and its resumption"
    )
    for text, place in {
        GOOD + "quality: {scorer: judge}\n": "quality.judge",
        GOOD + "quality: {scorer: agreement}\n": "quality.relative_to",
        GOOD.replace("flash", "wise") + "    only: judge\n": "endpoints",
        GOOD + wise + "quality: {relative_to: wise}\n": "quality.relative_to",
        GOOD + wise: "endpoints[1].only",
        GOOD + wise + judged.replace("wise", "flash") % "r.md": "endpoints[1].only",
    }.items():
        assert place in mistakes(tmp_path, text)


def test_what_does_not_work_yet_is_refused_and_its_default_is_not(tmp_path: Path) -> None:
    unbuilt = {
        "reuse": "answered",
        "reuse_max_age": "9d",
        "cache": "true",
        "retention_days": "3",
        "budget": "{window: day, approve_above_usd: 1}",
        "charge_by": "[team]",
    }
    text = GOOD + "".join(f"{key}: {value}\n" for key, value in unbuilt.items())
    found = mistakes(tmp_path, text)
    assert all("does not work yet" in what for what in found.values())
    assert {place.replace("[0]", "[]") for place in found} == set(NOT_YET)
    defaults = (
        "reuse: none\non_deadline: stop\nbudget: {window: run, approve_above_usd: null}\ncharge_by: []\n"
    )
    assert job(tmp_path, GOOD + defaults + "quality: {judge: null}\ncache: null\n").reuse == "none"


def test_every_place_that_does_not_work_yet_is_a_key_of_the_job() -> None:
    for place in NOT_YET:
        *before, last = place.replace("[]", "").split(".")
        assert last in keys_at(Job, tuple(before))


def test_a_param_has_its_values_type_where_it_is_plain_and_is_text_in_quotes(tmp_path: Path) -> None:
    text = GOOD.replace("tickets", "s3://a/${ds}/$${ds}") + "params: {ds: null, cap: 5, n: 3}\n"
    text += 'budget: {cap_usd: ${cap}}\nrequest: {max_tokens: ${n}}\ntags: {day: "${n}"}\n'
    loaded = job(tmp_path, text, ds="2026-11-22", n="8")
    assert loaded.input == "s3://a/2026-11-22/${ds}.parquet"
    assert (loaded.budget.cap_usd, loaded.request.max_tokens, loaded.tags) == (Decimal(5), 8, {"day": "8"})
    assert loaded.given == {"ds": "2026-11-22", "cap": "5", "n": "8"}


def test_a_param_that_the_job_has_not_is_refused(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD + "params: {day: a}\n", dey="b")
    assert found == {"--param dey": "no such param; params are day; did you mean day?"}


@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\ue000\ue001"), max_size=40))
def test_a_params_value_never_becomes_structure(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    folder = tmp_path_factory.mktemp("job")
    text = GOOD + 'params: {who: null}\ntags: {team: "x${who}"}\n'
    assert job(folder, text, who=value).tags == {"team": f"x{value}"}


def test_params_are_filled_into_names_too(tmp_path: Path) -> None:
    """A tag `${team}: night` was charged under its own spelling."""
    text = GOOD + 'params: {team: null}\ntags: {"${team}": night, "$${team}": day}\n'
    text += 'policies: {"no-${team}": {self_hosted_only: true}}\n'
    loaded = job(tmp_path, text, team="support")
    assert loaded.tags == {"support": "night", "${team}": "day"}
    assert list(loaded.policies) == ["no-support"]
    assert loaded.given == {"team": "support"}


def test_norway_is_a_country_and_a_clock_time_is_no_number(tmp_path: Path) -> None:
    loaded = job(tmp_path, GOOD + "policy: {origins: {allow: [NO, on]}}\ndeadline: 06:00 UTC\n")
    assert loaded.policy.origins is not None
    assert loaded.policy.origins.allow == ("NO", "on")


def test_the_contracts_example_is_a_job() -> None:
    assert load_job(HERE / "contract.yaml", {"ds": "2026-11-22"}, environ=None).quality.labels == 800


def test_files_that_the_request_names_are_read_from_beside_the_job(tmp_path: Path) -> None:
    (tmp_path / "system.md").write_text("Be brief.\n", encoding="utf-8")
    (tmp_path / "answer.json").write_text('{"type": "object"}', encoding="utf-8")
    loaded = job(tmp_path, GOOD + "request: {system: system.md, response_schema: answer.json}\n")
    assert loaded.request.system == "Be brief.\n"
    assert loaded.request.response_schema == '{"type": "object"}'
    assert "Be brief" not in repr(loaded)
    assert (
        job(tmp_path, GOOD + "request: {system: You triage tickets.}\n").request.system
        == "You triage tickets."
    )


def test_prompts_and_passwords_are_not_in_a_repr_nor_passwords_in_what_is_kept(tmp_path: Path) -> None:
    text = GOOD.replace("tickets.parquet", "{sql: select 1, attach: {crm: 'postgres://me:hunter2@db/x'}}")
    text = text.replace("    price:", "    params: {extra: {session_id: 4}}\n    price:")
    loaded = job(tmp_path, text + 'request: {prompt: "Secret plan: {body}"}\n')
    assert "hunter2" not in repr(loaded) + json.dumps(loaded.canonical())
    assert "Secret plan" not in repr(loaded)
    assert input_spec(loaded).source == SqlSource("select 1", {"crm": "postgres://me:hunter2@db/x"})


# --- what a job becomes -------------------------------------------------------------------------------------


def nothing_known(model: str, mode: Mode, said: Override, /, *, endpoint: str) -> PriceSchedule:
    assert said.price is not None
    return PriceSchedule(said.price, off_peak=said.off_peak or ())


def test_an_endpoint_is_what_the_job_says_over_what_is_known(tmp_path: Path) -> None:
    lines = "origin: FR\nretention: zero\nlimits: {rpm: 60}\nmode: batch\nturnaround: 4h\n"
    lines += "off_peak: {factor: 0.5, hours: [0, 10-12]}"
    part = job(tmp_path, on_endpoint(lines)).endpoints[0]
    known = KnownModel(Facts(licence="mit", origin="US"), context_window=4096, quality_prior=0.7)
    endpoint = endpoint_value(part, nothing_known, known, tmp_path)
    assert endpoint.facts == Facts(licence="mit", origin="FR", zero_retention=True)
    assert (endpoint.context_window, endpoint.quality_prior, endpoint.limits.rpm) == (4096, 0.7, 60)
    assert endpoint.turnaround_seconds == 4 * 3600
    assert endpoint.price.base == Price(Decimal("0.14"), Decimal("0.28"))
    assert endpoint.price.off_peak[0].hours == {0, 10, 11, 12}


def test_a_worker_is_paid_by_the_hour_and_its_paths_are_from_the_job(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    text = (
        GOOD
        + "  - {name: house, engine: vllm, model: weights, device: cpu,"
        + " accounting_usd_per_hour: 2.5, python: v/python}\n"
    )
    house = endpoint_value(job(tmp_path, text).endpoints[1], nothing_known, KnownModel(), tmp_path)
    assert house.model == str(tmp_path / "weights")
    assert house.workers is not None
    assert (house.workers.python, house.workers.accounting_usd_per_hour) == (
        str(tmp_path / "v/python"),
        Decimal("2.5"),
    )
    assert house.price.usd_per_hour == 0
    assert house.facts.self_hosted
    assert house.provider == "vllm"


def test_workers_are_rented_as_the_job_says(tmp_path: Path) -> None:
    text = (
        GOOD
        + "  - {name: house, engine: vllm, model: m/m, device: cuda, usd_per_hour: 20, workers: 8, price_per: node,"
        + " minimum_minutes: 60, billing_increment_minutes: 30, usd_per_kwh: 0.31, %s}\n"
    )
    spot, peak = "spot_price: ./now", "off_peak: {factor: 0.5, hours: [0-5]}"
    with pytest.raises(JobError, match="spot_price: does not go with off_peak"):
        job(tmp_path, text % f"{spot}, {peak}")
    house, cheap_at_night = (
        endpoint_value(job(tmp_path, text % key).endpoints[1], nothing_known, KnownModel(), tmp_path)
        for key in (spot, peak)
    )
    spec = house.workers
    assert spec is not None
    assert (spec.node_price, spec.minimum_minutes, spec.billing_increment_minutes) == (True, 60, 30)
    assert (spec.usd_per_kwh, spec.spot_price) == (Decimal("0.31"), "./now")
    price = cheap_at_night.price
    assert (price.usd_per_hour, price.off_peak[0].hours) == (20, {0, 1, 2, 3, 4, 5})


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo 1.75", None),
        ("echo free", "like 1.23"),
        ("echo none >&2; exit 3", "status 3: none"),
        ("echo -1", "-1"),
    ],
)
def test_a_spot_price_is_what_its_command_prints(tmp_path: Path, command: str, told: str | None) -> None:
    house, words = worker_endpoint(usd_per_hour=Decimal(3), spot_price=command), list[str]()
    if told is None:
        assert with_spot_price(house, tmp_path).price.usd_per_hour == Decimal("1.75")
        assert price_now(house, tmp_path, words.append) == Decimal("1.75")
        return
    assert price_now(house, tmp_path, words.append) is None, "a run that is under way goes on"
    assert "its price stays as it was" in words[0]
    with pytest.raises(UserError, match=f"endpoint house: its spot_price command is to print .*{told}"):
        with_spot_price(house, tmp_path)


def test_an_endpoint_without_a_price_is_named_with_the_line_to_add(tmp_path: Path) -> None:
    loaded = job(tmp_path, GOOD.replace("    price: {input: 0.14, output: 0.28}\n", ""))
    with pytest.raises(JobError, match=r"endpoints\[0\]\.price: endpoint flash has no price") as caught:
        endpoint_values(loaded, *books())
    assert "price: {input: FILL_IN" in str(caught.value)


def test_models_of_the_price_book_have_price_facts_and_context(tmp_path: Path) -> None:
    text = (
        "name: a\ninput: b\nendpoints: [{name: flash, model: deepseek/deepseek-v4-flash, api_key_env: SET}]\n"
    )
    flash = endpoint_values(job(tmp_path, text), *books())[0]
    assert flash.price.base.input > 0
    assert flash.facts.origin == "CN"
    assert flash.context_window is not None


def test_policies_and_scorer_become_the_routers(tmp_path: Path) -> None:
    quality = "quality: {scorer: regex, pattern: a+}\n"
    loaded = job(tmp_path, GOOD + "policies: {pii: {labs: {deny: [Acme]}, zero_retention: true}}\n" + quality)
    policy = policies_of(loaded)["pii"]
    assert (policy.labs, policy.zero_retention, policy.origins) == (Rule.of(deny=["acme"]), True, Rule())
    scorer = scorer_of(loaded)
    assert scorer is not None
    assert (scorer.name, scorer.pattern) == ("regex", "a+")
    assert scorer_of(job(tmp_path, GOOD)) is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("budget: {cap_usd: 5}\n", True),
        ("deadline: 8h\n", True),
        ("tolerate: {errors: 0.5}\n", True),
        ("quality: {pilot: 5}\n", True),
        ("quality: {floor: 0.5}\n", False),
        ("quality: {scorer: exact}\n", False),
        ("request: {max_tokens: 5}\n", False),
        ("request: {id: other}\n", False),
        ("dedupe: false\n", False),
    ],
)
def test_a_resumed_job_may_change_money_and_time_but_not_the_work(
    tmp_path: Path, change: str, same: bool
) -> None:
    assert (job(tmp_path, GOOD).job_hash == job(tmp_path, GOOD + change).job_hash) is same


def test_limits_may_change_too_and_the_folder_does_not_matter(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert job(tmp_path, GOOD).job_hash == job(other, on_endpoint("limits: {rpm: 5}")).job_hash


# --- run ids ------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)


def test_a_run_is_named_after_its_params_or_is_new(tmp_path: Path) -> None:
    with_params = job(tmp_path, GOOD + "params: {ds: null, b: 1}\n", ds="2026-11-22")
    assert derive_run_id(with_params, now=NOW, token="k3") == "triage.b=1.ds=2026-11-22"
    assert derive_run_id(job(tmp_path, GOOD), now=NOW, token="k3") == "triage.20261122T030405Z.k3"


PARAMS = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=30), min_size=1, max_size=3)


@given(name=st.text(min_size=1, max_size=20), one=PARAMS, other=PARAMS)
def test_run_ids_name_folders_and_differ_where_params_differ(
    name: str, one: dict[str, str], other: dict[str, str]
) -> None:
    run_id = named_after(name, one)
    assert checked_run_id(run_id) == run_id
    assert (run_id == named_after(name, other)) is (one == other)


@pytest.mark.parametrize("bad", ["", "..", "a/b", "-x", "a b", "x" * 129, "é"])
def test_a_run_id_that_cannot_name_a_folder_is_refused(bad: str) -> None:
    with pytest.raises(Exception, match="use letters, digits"):
        checked_run_id(bad)


def test_a_missing_input_is_told_beside_what_else_is_wrong(tmp_path: Path) -> None:
    text = "name: triage\ninput: ticket.parquet\nendpoints:\n"
    found = mistakes(tmp_path, text)
    assert set(found) == {"input", "endpoints"}
    assert found["input"] == 'no such file; did you mean "tickets.parquet"?'


def test_params_in_a_query_are_bound_or_stay_within_their_quotes(tmp_path: Path) -> None:
    evil = "x' union select * from 'secrets.parquet"
    text = (
        GOOD.replace(
            "tickets.parquet",
            """
  sql: |
    select * from 'in/dt=${ds}/*.parquet' -- not ${ds}
    where day = ${ds} and n > ${n} and "a${ds}" = e'it''s' and note <> '$${ds}'""",
        )
        + "params: {ds: null, n: 3}\n"
    )
    found = input_spec(job(tmp_path, text, ds=evil, n="4")).source
    assert isinstance(found, SqlSource)
    doubled = evil.replace("'", "''")
    assert found.sql.strip() == (
        f"select * from 'in/dt={doubled}/*.parquet' -- not \nwhere day = $ds and n > $n and "
        f"\"a{evil}\" = e'it''s' and note <> '${{ds}}'"
    )
    assert found.bound == {"ds": evil, "n": 4}


@pytest.mark.parametrize("within", ["e'${ds}'", "$$ ${ds}$$", "$tag$ ${ds}$tag$"])
def test_a_param_in_quotes_that_cannot_hold_it_safely_is_refused(tmp_path: Path, within: str) -> None:
    text = GOOD.replace("tickets.parquet", f"\n  sql: |\n    select {within}") + "params: {ds: a}\n"
    assert "cannot stand within" in mistakes(tmp_path, text)["input.sql"]


def test_a_param_in_quotes_leads_up_no_folder(tmp_path: Path) -> None:
    text = GOOD.replace("tickets.parquet", "\n  sql: select * from 'in/${ds}.parquet'") + "params: {ds: a}\n"
    assert "leads up a folder" in mistakes(tmp_path, text, ds="../../elsewhere/x")["input.sql"]


def test_comments_nest_and_hide_quotes(tmp_path: Path) -> None:
    text = (
        GOOD.replace("tickets.parquet", "\n  sql: |\n    select /* /* ' */ ' */ ${ds} as prompt")
        + "params: {ds: a}\n"
    )
    found = input_spec(job(tmp_path, text)).source
    assert isinstance(found, SqlSource)
    assert found.sql.strip() == "select /* /* ' */ ' */ $ds as prompt"


def test_what_a_query_binds_is_part_of_what_a_run_began_with(tmp_path: Path) -> None:
    text = (
        GOOD.replace("tickets.parquet", "{sql: 'select ${ds} as prompt'}") + "params: {ds: null, other: 1}\n"
    )
    first, same, second = (
        job(tmp_path, text, **given) for given in ({"ds": "a"}, {"ds": "a", "other": "2"}, {"ds": "b"})
    )
    assert first.job_hash == same.job_hash != second.job_hash


def test_aliases_of_aliases_are_refused_at_once(tmp_path: Path) -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    found = mistakes(tmp_path, "a0: &a0 [x]\n" + levels + GOOD)
    assert "aliases stand for more than 100,000 values" in found[""]


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\u202eb", "\x07", "a\u2028b", "\ufeffa", "a\x85b"])
def test_a_name_holds_nothing_that_is_not_seen(tmp_path: Path, name: str) -> None:
    assert set(mistakes(tmp_path, GOOD.replace("triage", json.dumps(name)))) == {"name"}


def test_a_pipe_is_no_job(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.yaml")
    with pytest.raises(JobError, match="is no file"):
        load_job(tmp_path / "job.yaml")
