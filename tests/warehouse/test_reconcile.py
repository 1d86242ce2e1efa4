"""An invoice with each kind of discrepancy: each is found and named."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.exchange.invoices import INVOICE, read_invoice
from thirdshift.warehouse.exchange.reconcile import Discrepancy, Reconciliation, ReconciliationLine, reconcile

DAY = date(2026, 11, 21)


def entry(
    cost: str, *, model: str = "lab/flash", status: str = "settled", day: int = 21, **more: Any
) -> dict[str, Any]:
    row = {
        "provider_ref": None,
        "model": model,
        "model_reported": None,
        "status": status,
        "started_at": datetime(2026, 11, day, 23, 59, tzinfo=UTC),
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": Decimal(cost),
    }
    return row | more


def ledger(*rows: dict[str, Any]) -> pa.Table:
    schema = pa.schema(
        [(name, pa.string()) for name in ("provider_ref", "model", "model_reported", "status")]
        + [
            ("started_at", pa.timestamp("us", tz="UTC")),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("cost_usd", pa.decimal128(18, 9)),
        ]
    )
    return pa.Table.from_pylist(list(rows), schema=schema)


def invoice(tmp_path: Path, text: str) -> pa.Table:
    path = tmp_path / "invoice.csv"
    path.write_text(text)
    return read_invoice(path)


def only(result: Reconciliation) -> ReconciliationLine:
    (line,) = result.lines
    return line


def test_each_kind_of_discrepancy_is_found_and_named(tmp_path: Path) -> None:
    ours = ledger(
        entry("1.00"),
        entry("2.00"),
        entry("0.50", model="lab/dear"),
        entry("0.70", model="lab/lost"),
        entry("0.40", model="lab/hung"),
        entry("0.30", model="lab/hung", status="unsettled"),
        entry("9.00", model="lab/flash", status="void"),
    )
    bill = (
        "date,model,cost_usd\n2026-11-21,flash,3.004\n2026-11-21,dear,0.90\n2026-11-21,hung,0.65\n"
        "2026-11-21,alien,5\n"
    )
    result = reconcile(ours, invoice(tmp_path, bill))
    found = {line.model: line for line in result.lines}
    assert {model: line.finding for model, line in found.items()} == {
        "flash": Discrepancy.MATCHED,
        "dear": Discrepancy.MISMATCH,
        "lost": Discrepancy.OURS_ONLY,
        "hung": Discrepancy.MATCHED,
        "alien": Discrepancy.THEIRS_ONLY,
    }
    assert "billed 0.400000000 USD more than settled" in found["dear"].note
    assert "1 unsettled attempts can be" in found["hung"].note
    assert (found["hung"].settled_usd, found["hung"].unsettled_usd) == (Decimal("0.4"), Decimal("0.3"))
    assert (result.settled_usd, result.theirs_usd, result.unsettled_usd) == (
        Decimal("4.6"),
        Decimal("9.554"),
        Decimal("0.3"),
    )
    assert result.count(Discrepancy.MATCHED) == 2


def test_more_than_unsettled_can_be_is_a_mismatch_with_the_rest_named(tmp_path: Path) -> None:
    ours = ledger(entry("1"), entry("0.5", status="unsettled"))
    line = only(reconcile(ours, invoice(tmp_path, "day,model,usd\n2026-11-21,flash,2.00\n")))
    assert (line.finding, line.note) == (
        Discrepancy.MISMATCH,
        "billed 1.000000000 USD more than settled, 0.500000000 beyond what is unsettled",
    )


def test_requests_are_compared_one_by_one_where_the_invoice_names_them(tmp_path: Path) -> None:
    ours = ledger(
        entry("1.00", provider_ref="a"),
        entry("1.00", provider_ref="b"),
        entry("1.00", provider_ref="c", status="unsettled"),
    )
    bill = "id,amount\na,1.00\nb,1.50\nd,0.10\n"
    result = reconcile(ours, invoice(tmp_path, bill))
    assert [(line.ref, line.finding) for line in result.lines] == [
        ("a", Discrepancy.MATCHED),
        ("b", Discrepancy.MISMATCH),
        ("c", Discrepancy.OURS_ONLY),
        ("d", Discrepancy.THEIRS_ONLY),
    ]
    assert "it was not billed" in result.lines[2].note


def test_anthropics_usage_is_compared_by_tokens(tmp_path: Path) -> None:
    head = (
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
        "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
        "usage_output_tokens,web_search_count\n"
    )
    bill = head + '2026-11-21,claude-opus-4-7-20260401,key,Default,batch,≤ 200k,"1,004",0,0,6,10,0\n'
    ours = [entry("1", model="anthropic/claude-opus-4-7", input_tokens=505) for _ in range(2)]
    line = only(reconcile(ledger(*ours), invoice(tmp_path, bill)))
    assert (line.finding, line.note, line.theirs_usd) == (Discrepancy.MATCHED, "by tokens", None)
    line = only(
        reconcile(ledger(*ours, entry("1", model="anthropic/claude-opus-4-7")), invoice(tmp_path, bill))
    )
    assert (line.finding, line.note) == (Discrepancy.MISMATCH, "tokens differ: input -10, output -5")


def test_openais_usage_and_costs_are_read(tmp_path: Path) -> None:
    start = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())
    usage = invoice(
        tmp_path,
        f"start_time,end_time,project_id,num_model_requests,model,input_tokens,output_tokens,input_cached_tokens\n"
        f"{start},{start + 86400},p,7,gpt-5.5-2026-04-01,100,20,0\n",
    )
    assert usage.to_pylist() == [
        {
            "day": DAY, "model": "gpt-5.5-2026-04-01", "ref": None, "input_tokens": 100, "output_tokens": 20,
            "requests": 7, "cost_usd": None,
        }
    ]  # fmt: skip
    costs = invoice(
        tmp_path, 'start_time_iso,amount_value,line_item\n2026-11-21T00:00:00+00:00,0.30,"gpt-5.5, input"\n'
        '2026-11-21T00:00:00+00:00,0.20,"gpt-5.5, output"\n',
    )  # fmt: skip
    ours = ledger(entry("0.5", model="openai/gpt-5.5", model_reported="gpt-5.5-2026-04-01"))
    assert only(reconcile(ours, costs)).finding is Discrepancy.MATCHED


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("openai/gpt-5.5", "gpt-5.5", True),
        ("openai/gpt-5.5", "gpt-5.5-2026-04-01", True),
        ("openai/gpt-5.5", "gpt-5.5-mini", False),
        ("anthropic/claude-opus-4-7", "claude-opus-4-7-20260401", True),
        ("openrouter/deepseek/deepseek-v4", "deepseek/deepseek-v4", True),
        ("openai/gpt-5", "gpt-5.5", False),
    ],
)
def test_a_models_dated_name_is_the_same_model_and_its_sister_is_not(
    tmp_path: Path, ours: str, theirs: str, same: bool
) -> None:
    bill = invoice(tmp_path, f"day,model,usd\n2026-11-21,{theirs},1\n")
    assert (len(reconcile(ledger(entry("1", model=ours)), bill).lines) == 1) is same


def test_an_invoice_that_cannot_be_compared_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its columns are day, euro; needed are"):
        invoice(tmp_path, "day,euro\n2026-11-21,1\n")
    with pytest.raises(InputError, match="line 3: usd 'lots' is no amount"):
        invoice(tmp_path, "day,model,usd\n2026-11-21,flash,1\n2026-11-21,flash,lots\n")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_invoice(tmp_path / "none.csv")


AMOUNTS = st.integers(0, 10**6).map(lambda n: Decimal(n) / 1000)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("2026-11-30,a,nan", "line 2: cost_usd 'nan' is no amount"),
        ("2026-11-30,a,1e12", "line 2: cost_usd '1e12' is no amount"),
        ("2026-11-30,a,five", "line 2: cost_usd 'five' is no amount"),
        ('2026-11-30,a,"0,003"', "line 2: cost_usd '0,003' is no amount"),
        ('2026-11-30,a,"1.234,50"', "line 2: cost_usd '1.234,50' is no amount"),
        ("2026-11-30,a,0,0031", "line 2: more cells than columns"),
        ("31/12/2026,a,1", "line 2: day '31/12/2026' is no day"),
        ("99999999999999999,a,1", "line 2: day '99999999999999999' is no day"),
    ],
)
def test_a_cell_that_is_no_number_or_day_is_named(tmp_path: Path, cells: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        invoice(tmp_path, f"day,model,cost_usd\n{cells}\n")


def test_an_amount_may_part_its_thousands_and_is_in_dollars(tmp_path: Path) -> None:
    head = "day,model,amount_value,amount_currency,requests"
    bill = invoice(tmp_path, f'{head}\n2026-11-30,a,"-1,234,567.5",usd,"2,000"\n2026-11-30,b,,eur,3\n')
    assert bill["cost_usd"].to_pylist() == [Decimal("-1234567.5"), None]
    assert bill["requests"].to_pylist() == [2000, 3]
    with pytest.raises(InputError, match="line 2: amount_currency is 'eur'; amounts must be in US dollars"):
        invoice(tmp_path, f"{head}\n2026-11-30,a,1.5,eur,1\n")
    with pytest.raises(InputError, match=r"line 2: requests '1\.5' is no count"):
        invoice(tmp_path, f"{head}\n2026-11-30,a,1.5,usd,1.5\n")


@given(st.lists(st.tuples(AMOUNTS, st.sampled_from(["settled", "unsettled"])), min_size=1), AMOUNTS)
def test_an_invoice_matches_exactly_between_settled_and_settled_plus_unsettled(
    attempts: list[tuple[Decimal, str]], billed: Decimal
) -> None:
    ours = ledger(*(entry(str(amount), status=status) for amount, status in attempts))
    bill = pa.Table.from_pylist([{"day": DAY, "model": "flash", "cost_usd": billed}], schema=INVOICE)
    line = only(reconcile(ours, bill, tolerance_usd=Decimal(0)))
    settled = sum((a for a, status in attempts if status == "settled"), Decimal(0))
    most = sum((a for a, _ in attempts), Decimal(0))
    assert (line.finding is Discrepancy.MATCHED) is (settled <= billed <= most)
