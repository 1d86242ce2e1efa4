"""The table `rates`: how fast local workers were, a row per run and endpoint, and what the next plan takes from them."""

from __future__ import annotations

import pyarrow as pa

from thirdshift.warehouse.store.store import Warehouse

MEASURED = pa.schema(
    [
        (name, pa.string())
        for name in ("run_id", "endpoint", "model", "device", "hardware", "vllm", "setting", "driver")
    ]
    + [
        ("prefill_tokens_per_second", pa.float64()),
        ("decode_tokens_per_second", pa.float64()),
        ("told_apart", pa.bool_()),
        ("startup_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("prefill_tokens", pa.int64()),
        ("decode_tokens", pa.int64()),
        ("is_full", pa.bool_()),
        ("measured_at", pa.timestamp("us", "UTC")),
    ]
)

NIGHTS = 10
"""The latest of them; a driver or a clock may have changed since the others."""

KNOWN = f"""
with measured as (
    select *, coalesce(is_full, true) and decode_tokens_per_second > 0 and prefill_tokens_per_second > 0 as fast
    from rates),
latest as (
    select *, first_value(vllm) over w as newest, row_number() over w as nth
    from measured where fast
    window w as (partition by model, device, hardware, setting, driver order by measured_at desc, seconds desc)),
speeds as (
    select model, device, hardware, setting, driver, any_value(vllm) as vllm, count(*) as nights,
           sum(prefill_tokens) / sum(prefill_tokens / prefill_tokens_per_second) as prefill_tokens_per_second,
           sum(decode_tokens) / sum(decode_tokens / decode_tokens_per_second) as decode_tokens_per_second,
           median(startup_seconds) as startup_seconds, max(measured_at) as measured_at
    from latest
    where vllm = newest and nth <= {NIGHTS} and prefill_tokens > 0 and decode_tokens > 0
    group by model, device, hardware, setting, driver),
starts as (
    select model, device, hardware, setting, driver, max(vllm) as vllm, count(*) as nights,
           null::double as prefill_tokens_per_second, null::double as decode_tokens_per_second,
           median(startup_seconds) as startup_seconds, max(measured_at) as measured_at
    from measured where not fast and startup_seconds > 0
    group by model, device, hardware, setting, driver)
select * from (from speeds union all by name from starts)
order by prefill_tokens_per_second is null, measured_at desc, model, device, hardware, setting, driver
"""
"""Speed by the vLLM that measured last: all its tokens over all the seconds they took. Nights whose batches were thin tell
how long a start takes, and no speed."""


def save(warehouse: Warehouse, measured: pa.Table) -> None:
    """Append rows of MEASURED; speeds in tokens per second."""
    warehouse.execute("insert into rates by name select * from measured", {"measured": measured})


def known(warehouse: Warehouse) -> pa.Table:
    """Return a row per model, device, hardware, setting and driver: tokens per second of one worker (null: never measured
    with full batches), seconds to start one, `nights`; those with a speed first, of these the latest."""
    return warehouse.query(KNOWN)
