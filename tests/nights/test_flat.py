"""What a night does to its warehouse, counted: no more with thirty-eight nights before it than with one."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.nights import night_here, write_job, write_sums
from tests.support.servers import cheap, dear, emulated
from thirdshift.warehouse.store.runs import TABLES_BY_RUN
from thirdshift.warehouse.store.store import Warehouse

NIGHTS = 38
BOTH = {"cheap": {"price": {"input": 0.1, "output": 0.4}}, "dear": {"price": {"input": 5, "output": 25}}}
KEYS: dict[str, Any] = {
    "quality": {"floor": 0.9, "scorer": "numeric", "pilot": 40},
    "budget": {"cap_usd": 50, "window": "month"},
    "retention_days": 400,
}
OPENED: list[str] = []
"""Files and folders that this process opens, while something is added here; a hook cannot be taken away again."""
LISTENING: list[None] = []


def _note(event: str, values: tuple[Any, ...]) -> None:
    if LISTENING and event in ("open", "os.scandir", "os.listdir"):
        OPENED.append(str(values[0]))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Statements by their text while the block lasts; how often the warehouse was opened is among them."""
    counts: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name in ("query", "scalar", "execute", "stream"):
            real = getattr(Warehouse, name)

            def counting(self: Warehouse, sql: str, *values: Any, real: Any = real, **more: Any) -> Any:
                counts[sql.strip().split("\n")[0][:60]] += 1
                return real(self, sql, *values, **more)

            patch.setattr(Warehouse, name, counting)
        yield counts


def grow(warehouse: Path, night: str) -> None:
    """Give the warehouse the same night again and again, each with its folder."""
    with duckdb.connect(str(warehouse)) as con:
        for (table,) in con.execute(TABLES_BY_RUN).fetchall():
            con.execute(
                f"insert into {table} select t.* replace (t.run_id || '-' || n as run_id) "
                f"from {table} t, range({NIGHTS - 1}) r(n) where t.run_id = '{night}'"
            )
    folder = warehouse.with_name(warehouse.name + ".d") / night
    for n in range(NIGHTS - 1):
        shutil.copytree(folder, folder.with_name(f"{night}-{n}"))


def test_a_night_asks_no_more_and_reads_no_file_of_the_nights_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.addaudithook(_note)
    items = write_sums(tmp_path / "requests.parquet", 60)
    warehouse, home = tmp_path / "warehouse.duckdb", tmp_path / "warehouse.duckdb.d"
    asked: list[Counter[str]] = []
    with emulated([cheap(latency_seconds=0.01), dear(latency_seconds=0.01)], items=items) as emulator:
        job = write_job(tmp_path, emulator, BOTH, **KEYS)
        night_here(job, "old")
        for tonight in ("second", "last"):
            with counted(monkeypatch) as counts:
                LISTENING.append(None)
                night_here(job, tonight)
                LISTENING.clear()
            asked.append(counts)
            read = {path for path in OPENED if path.startswith(f"{home}/old")}
            assert any(path.startswith(f"{home}/{tonight}/") for path in OPENED), "its own are"
            assert not read, f"with {len(list(home.glob('old*')))} nights before it"
            if tonight == "second":
                grow(warehouse, "old")
    few, many = asked
    assert {sql: n for sql, n in (many - few).items() if n > NIGHTS / 2} == {}, (
        "as many questions, but for some rounds more of repair"
    )
    assert few.total() > 30
