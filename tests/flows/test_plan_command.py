"""`plan`: what a user is told before a cent is spent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.plans import plan
from thirdshift.engines.devices import machine
from thirdshift.flows.api.plans import INFEASIBLE
from thirdshift.flows.cli.plan import show_plan
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.options import RunOptions

KEYS = {
    "feasible", "requests", "rejects", "cost_usd", "cost_usd_high", "quality", "labels_needed", "labels_usd", "finish_at",
    "endpoints", "frontier", "gap", "reasons", "nearest", "purposes",
}  # fmt: skip
PRICE = {"input": 1, "output": 4}


def test_a_plan_on_priors_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.98},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    assert plan(tmp_path, endpoints, quality={"floor": 0.9, "scorer": "numeric", "pilot": 0}) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == KEYS
    assert told["quality"] >= 0.9
    assert told["cost_usd"] <= told["cost_usd_high"]
    assert len(told["frontier"]) == 20
    assert sum(share["requests"] for share in told["endpoints"].values()) == 100


def test_the_high_figure_knows_that_nobody_has_measured_a_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, {"server": {"usd_per_hour": 2, "quality_prior": 0.9}}) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cost_usd_high"] > 2 * told["cost_usd"]


def test_a_warehouse_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database")
    with pytest.raises(UserError, match="cannot be opened as a warehouse"):
        plan(tmp_path, {"a": {"price": PRICE}}, warehouse="notes.txt")


def test_rows_that_are_too_many_to_refuse_are_told_with_their_reasons(tmp_path: Path) -> None:
    """`plan` keeps no file of them that it could name."""
    terms = {"request": {"policy": "task"}, "policies": {"easy": {}}, "tolerate": {"rejects": 0.25}}
    with pytest.raises(UserError) as caught:
        plan(tmp_path, {"a": {"price": PRICE}}, **terms)
    assert str(caught.value).startswith(
        "50 of 100 rows are rejected, a share of 0.5; tolerate.rejects allows 0.25. Mend the rows or raise it: "
        "row 1: policy hard is not under the job's policies (easy); row 3: "
    )


def test_why_knows_refused_rows_and_requests_that_repeat_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("first", "What?"), ("again", "What?"), ("blank", "")]
    table = pa.table({"request_id": [name for name, _ in rows], "prompt": [text for _, text in rows]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert plan(tmp_path, {"a": {"price": PRICE}}, input="rows.parquet", why="again") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["why"][-1] == "it asks what first asks, and gets that one's answer at no cost of its own"
    with pytest.raises(UserError, match=r"request blank is refused: row 2: .*empty"):
        plan(tmp_path, {"a": {"price": PRICE}}, input="rows.parquet", why="blank")
    with pytest.raises(UserError, match="no request other in the input"):
        plan(tmp_path, {"a": {"price": PRICE}}, input="rows.parquet", why="other")


def test_rows_that_are_refused_are_told_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are few they stop nothing, and nothing else in `plan` would say which and why."""
    table = pa.table({"request_id": ["a", "a", None, "b", "c"], "prompt": ["x", "y", "z", "", ""]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert plan(tmp_path, {"a": {"price": PRICE}}, input="rows.parquet", as_json=False) == 0
    assert (
        "4 rows are refused: row 1: request_id is that of row 0, which stands; row 2: request_id is null; "
        "row 3: prompt is empty; …"
    ) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("endpoint", "workers"), [({"price": PRICE}, False), ({"usd_per_hour": 2, "quality_prior": 0.9}, True)]
)
def test_a_plan_tells_when_it_is_done_and_of_workers_where_some_are_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], endpoint: dict[str, Any], workers: bool
) -> None:
    assert plan(tmp_path, {"only": endpoint}, as_json=False, deadline="2099-12-01T07:00:00+01:00") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"done by 20\d\d-\d\d-\d\d \d\d:\d\d UTC; the deadline is 2099-12-01 06:00 UTC", said)
    assert ("workers" in said) is workers


def test_a_plan_before_its_pilot_tells_the_deadline_as_an_instant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = {"floor": 0.9, "scorer": "numeric"}
    both = {"a": {"price": PRICE}, "b": {"price": PRICE}}
    assert plan(tmp_path, both, as_json=False, quality=scored, deadline="2099-12-01T07:00:00+01:00") == 0
    assert capsys.readouterr().out.endswith("the deadline is 2099-12-01 06:00 UTC\n")


@pytest.mark.parametrize("as_json", [True, False])
def test_policies_that_no_row_is_under_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """The input has no column `policy`, and the job names none: the rule would hold for nobody, without a word."""
    policies = {"pii": {"self_hosted_only": True}}
    assert plan(tmp_path, {"a": {"price": PRICE}}, as_json=as_json, policies=policies) == 0
    told = capsys.readouterr()
    said = told.err if as_json else told.out
    assert "no row is under any of policies: (pii)" in " ".join(said.split())
    if as_json:
        assert set(json.loads(told.out)) == KEYS


def test_figures_that_a_pilot_will_tell_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {"a": {"price": PRICE}, "b": {"price": PRICE}}
    assert plan(tmp_path, both, quality={"floor": 0.9, "scorer": "numeric"}) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == KEYS
    assert told["cost_usd"] is None
    assert told["quality"] is None


def test_what_is_infeasible_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = {"a": {"price": PRICE, "quality_prior": 0.7}}
    assert plan(tmp_path, only, quality={"floor": 0.9, "scorer": "numeric", "pilot": 0}) == INFEASIBLE
    told = json.loads(capsys.readouterr().out)
    assert not told["feasible"]
    assert told["reasons"][0]["constraint"] == "floor"
    assert told["nearest"]["floor"] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("scorer", ["numeric", None])
@pytest.mark.parametrize(
    ("deadline", "endpoint"),
    [
        ("2020-01-01T00:00:00Z", {"price": PRICE}),
        ("8h", {"price": PRICE, "mode": "batch", "turnaround": "24h"}),
        ("2020-01-01T00:00:00Z", {"usd_per_hour": 2}),
    ],
)
def test_a_deadline_that_nobody_meets_is_infeasible(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    deadline: str,
    endpoint: dict[str, Any],
    scorer: str | None,
) -> None:
    asked = {"floor": 0.5, "pilot": 0} | ({"scorer": scorer} if scorer else {})
    ends = {"only": endpoint | {"quality_prior": 0.7}}
    assert plan(tmp_path, ends, quality=asked, deadline=deadline) == INFEASIBLE
    told = json.loads(capsys.readouterr().out)
    assert not told["feasible"]
    assert told["reasons"][0]["constraint"] == "deadline"
    assert told["cost_usd"] is None


@pytest.mark.parametrize(("deadline", "waits"), [("8h", True), ("30s", False)])
def test_a_plan_waits_for_the_low_price_where_there_is_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], deadline: str, waits: bool
) -> None:
    later = [
        hour for hour in range(24) if hour not in (datetime.now(UTC).hour, (datetime.now(UTC).hour + 1) % 24)
    ]
    cheap_later = {"a": {"price": PRICE, "off_peak": {"factor": 0.5, "tz": "UTC", "hours": later}}}
    assert plan(tmp_path, cheap_later, as_json=False, deadline=deadline) == 0
    assert ("waits" in capsys.readouterr().out) is waits


@pytest.mark.parametrize("free", [True, False])
def test_a_pilot_costs_something_only_where_looking_at_scores_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free: bool
) -> None:
    (tmp_path / "rubric.md").write_text("right or wrong")
    endpoints = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.98},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    judged = {"scorer": "judge", "judge": {"endpoint": "dear", "rubric": "rubric.md", "max_usd": 1}}
    told = {}
    for pilot in (0, 50):
        quality = {"floor": 0.9, "pilot": pilot, **({"scorer": "numeric"} if free else judged)}
        plan(tmp_path, endpoints, quality=quality)
        told[pilot] = json.loads(capsys.readouterr().out)["cost_usd"]
    assert (told[0] == told[50]) is free
    assert told[0] <= told[50]


def test_a_cap_below_the_whole_bill_is_not_feasible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.98},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    quality = {"floor": 0.9, "scorer": "numeric"}
    assert plan(tmp_path, endpoints, quality=quality) == 0
    told = json.loads(capsys.readouterr().out)
    alone = 100 * (15 * 5 + 300 * 25) * 1e-6  # of the dear endpoint, about
    assert told["cost_usd"] < alone
    assert (
        told["cost_usd"]
        <= told["cost_usd_high"]
        <= 100 * ((40 * 5 + 1024 * 25) + (40 * 0.1 + 1024 * 0.4)) * 1e-6
    )
    assert plan(tmp_path, endpoints, quality=quality, budget={"cap_usd": told["cost_usd"] / 2}) == INFEASIBLE
    assert "cap_usd" in {reason["constraint"] for reason in json.loads(capsys.readouterr().out)["reasons"]}


def test_why_says_to_whom_a_request_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.98},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    assert plan(tmp_path, endpoints, quality={"floor": 0.9, "scorer": "numeric"}) == 0
    capsys.readouterr()
    assert show_plan(RunOptions(tmp_path / "job.yaml"), as_json=False, request_id="r00000") == 0
    said = capsys.readouterr().out
    assert "r00000 " in said
    assert "every answer is scored" in said
    assert show_plan(RunOptions(tmp_path / "job.yaml"), as_json=True, request_id="r00000") == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json == {"request_id": "r00000", "why": said.splitlines()}


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One H100, as nvidia-smi tells of it."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-0, NVIDIA H100 80GB HBM3, 81559, 81000, Disabled, 570.86.15'\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.cache_clear()
    yield
    machine.cache_clear()


def model_of(folder: Path, layers: int) -> dict[str, Any]:
    """A worker of a model that is known by its config.json."""
    shape = {"num_hidden_layers": layers, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
             "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16"}  # fmt: skip
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(shape))
    return {"engine": "vllm", "model": "./model", "device": "cuda", "usd_per_hour": 2}


@pytest.mark.usefixtures("card")
def test_why_says_what_the_speed_of_a_worker_is_believed_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a first night: the model's config.json and the card's data sheet."""
    assert plan(tmp_path, {"house": model_of(tmp_path, 32)}, why="r00000") == 0
    said = capsys.readouterr().out
    assert "r00000 (task easy) goes to house" in said
    assert "reckoned from its config.json (8.0 billion parameters, 7.5 of them active, bf16)" in said
    assert "1 x NVIDIA H100 80GB HBM3 (NVIDIA, H100 data sheet, 2023)" in said


@pytest.mark.usefixtures("card")
def test_a_plan_says_where_a_models_weights_do_not_fit_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, {"house": model_of(tmp_path, 400)}) == 0
    told = capsys.readouterr()
    assert "endpoint house: the weights take 1" in told.out + told.err
    assert "on each of 1 NVIDIA H100 80GB HBM3" in told.out + told.err


def test_what_labels_cost_is_told_and_when_those_allowed_cannot_be_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rubric.md").write_text("right or wrong")
    endpoints = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.98},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    judge = {"endpoint": "dear", "rubric": "rubric.md", "max_usd": 1}
    quality = {"floor": 0.7, "scorer": "judge", "judge": judge, "pilot": 20}
    assert plan(tmp_path, endpoints, quality=quality) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["labels_needed"] <= 100
    assert told["labels_usd"] > 0
    assert told["cost_usd"] == pytest.approx(sum(told["purposes"].values()))
    assert told["purposes"]["judge"] >= told["labels_usd"], (
        "the pilot's verdicts and the audit's are in the bill"
    )
    rest = told["cost_usd"] - told["purposes"]["judge"]
    assert told["cost_usd_high"] >= rest + 1, "all that the judge may cost can be spent"
    assert told["reasons"] == []
    few = quality | {"labels": 12, "per_task": True}
    plan(tmp_path, endpoints, quality=few, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "for each of 2 tasks takes" in shown
    assert "12 are allowed" in shown
