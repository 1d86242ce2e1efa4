"""Whom money is booked under: providers of endpoints, columns to charge by."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thirdshift.flows.errors import JobError, UserError
from thirdshift.flows.planning.input import check_charges
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.policy import is_self_hosted
from thirdshift.warehouse.intake.frozen import column
from thirdshift.warehouse.intake.intake import freeze

JOB = """\
name: tickets
input: in.parquet
request: {prompt: "{body}"%s}
endpoints:
  - {name: ours, model: openai/m, api_base: "http://llm.example.org:8801/v1", price: {input: 1, output: 1}%s}
"""


def context(folder: Path, request: str = "", endpoint: str = "") -> RunContext:
    rows = {"request_id": ["a", "b"], "body": ["x", "y"], "label": ["red", "blue"], "handling": ["pii", None]}
    pq.write_table(pa.table(rows), folder / "in.parquet")
    path = folder / "job.yaml"
    path.write_text(JOB % (request, endpoint))
    return context_for(RunOptions(path), "run")


@pytest.mark.parametrize(
    ("endpoint", "provider", "ours"),
    [
        ("", "llm.example.org", False),
        (", provider: inhouse", "inhouse", False),
        (", self_hosted: true", "llm.example.org", True),
    ],
)
def test_an_endpoint_at_an_address_is_booked_under_its_host_or_as_stated(
    tmp_path: Path, endpoint: str, provider: str, ours: bool
) -> None:
    (made,) = context(tmp_path, endpoint=endpoint).endpoints
    assert (made.provider, made.protocol, is_self_hosted(made)) == (provider, "openai", ours)


def test_a_server_of_ones_own_has_an_address(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "{name: t, input: in.parquet, endpoints: [{name: e, model: openai/gpt-5.5, self_hosted: true}]}"
    )
    with pytest.raises(JobError, match="name its api_base"):
        context_for(RunOptions(path), "run")


def test_columns_of_the_input_are_carried_to_charge_by_and_to_name_a_policy(tmp_path: Path) -> None:
    made = context(tmp_path, request=", metadata: [label], policy: handling")
    freeze(made.input, made.folder)
    assert column(made.folder, "metadata").to_pylist() == ['{"label":"red"}', '{"label":"blue"}']
    assert column(made.folder, "policy").to_pylist() == ["pii", None]
    check_charges(made.folder, ["label"])


def test_a_key_to_charge_by_that_no_row_has_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    made = context(tmp_path)
    freeze(made.input, made.folder)
    with pytest.raises(UserError, match=r"charge_by: label: no row .* request: \{metadata: \[label\]\}"):
        check_charges(made.folder, ["label"])
