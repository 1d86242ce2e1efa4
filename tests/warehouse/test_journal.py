"""The journal: what was acknowledged is there after kill -9, and in the ledger once."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.warehouses import NOW, intent, outcome
from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    LedgerStatus,
    Outcome,
)
from thirdshift.warehouse.errors import JournalError, StoreError
from thirdshift.warehouse.journal import journal as journal_module
from thirdshift.warehouse.journal import parts, records
from thirdshift.warehouse.journal.journal import FileJournal, pending, recover
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse


def test_a_sealed_journal_is_a_part_and_nothing_else(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.sent([intent(1), intent(2)])
        journal.settled([outcome(1)])
        part = journal.seal("s1")
        assert journal.seal("s1") is None
        assert journal.seal("never") is None
    assert part is not None
    assert list((tmp_path / "journal").iterdir()) == []
    one, two = parts.read(part).to_pylist()
    assert (one["status"], one["cost_usd"], one["output"], one["cached_tokens"]) == (
        "settled",
        Decimal("0.000100000"),
        "yes",
        1,
    )
    assert (two["status"], two["cost_usd"], two["settled_at"], two["reply"]) == (
        "unsettled",
        Decimal("0.000123456"),
        None,
        None,
    )


def test_shards_have_files_of_their_own_and_overhead_too(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.sent([intent(1, "a"), intent(2, "b"), intent(3, None)])
        journal.settled([outcome(3), outcome(1)])
        assert sorted(p.name for p in (tmp_path / "journal").iterdir()) == [
            "a.jsonl",
            "b.jsonl",
            "overhead.jsonl",
        ]
        part = journal.seal("overhead")
        assert part is not None
        assert parts.read(part)["shard_id"].to_pylist() == [None]


def test_a_shard_sealed_again_makes_another_part(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        for n in (1, 2, 3):
            journal.sent([intent(n)])
            journal.seal("s1")
    assert [p.name for p in parts.of_run(tmp_path)] == ["s1-2.parquet", "s1-3.parquet", "s1.parquet"]
    assert len(parts.of_shard(tmp_path, "s1")) == 3


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FileJournal(folder) as journal:
        journal.sent([intent(1, "a"), intent(2, "b")])
        journal.seal("a")
    assert {p.stat().st_mode & 0o777 for p in [folder, *folder.rglob("*")] if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {0o600}


def test_an_outcome_without_an_attempt_is_a_fault(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal, pytest.raises(JournalError, match="no attempt of that id"):
        journal.settled([outcome(1)])


TEXTS = st.text(st.characters(), max_size=20)  # half characters too


@given(TEXTS, TEXTS | st.none(), st.sampled_from(FailureKind), st.booleans())
def test_records_come_back_as_they_were(
    text: str, reasoning: str | None, kind: FailureKind, final: bool
) -> None:
    answer = Answer(1, "r", text, None, reasoning, valid=final, logprobs="[]" if final else None)
    for reply in (answer, Failure(1, "r", kind, text), None):
        before = Outcome("e", LedgerStatus.VOID, Decimal("1e-9"), NOW, None, "m", "ref", reply, final)
        after = records.decode(records.encode(before))
        assert isinstance(after, Outcome)
        if text.isprintable() and (reasoning or "").isprintable():
            assert after == before
        assert parts.entries([(intent(1), after)])["cost_usd"].to_pylist() == [Decimal("1e-9")]
        assert isinstance(after.reply, Answer) is isinstance(reply, Answer)
        if isinstance(after.reply, Answer):
            after.reply.output.encode()


# --- death -----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.support.warehouses import intent, outcome
from thirdshift.warehouse.journal.journal import FileJournal
journal = FileJournal(Path(sys.argv[1]))
n = 0
while True:
    n += 1
    shard = f"s{n % 3}"
    journal.sent([intent(n, shard)])
    print("sent", n, flush=True)
    journal.settled([outcome(n, "x" * (n % 500))])
    print("settled", n, flush=True)
    if n % 40 == 0:
        journal.seal(shard)
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_before_kill_9_is_in_the_ledger_once(tmp_path: Path, seed: int) -> None:
    folder, told = tmp_path / "run", tmp_path / "told.txt"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with told.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-c", WRITER, folder, ROOT], stdout=out, env=env)
        while told.stat().st_size < 500:
            time.sleep(0.01)
            assert child.poll() is None
        time.sleep(random.Random(seed).random() * 0.4)
        child.send_signal(signal.SIGKILL)
        child.wait()
    lines = told.read_text().rpartition("\n")[0].splitlines()  # the last may be cut
    sent = {f"e{line.split()[1]}" for line in lines if line.startswith("sent")}
    settled = {f"e{line.split()[1]}" for line in lines if line.startswith("settled")}

    recover(folder)
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        for _ in range(2):
            for part in parts.of_run(folder):
                ingest_parts(warehouse, part)
        entries = warehouse.query("select entry_id, status from ledger").to_pylist()
    statuses = {e["entry_id"]: e["status"] for e in entries}
    assert len(statuses) == len(entries), "an entry is in the ledger twice"
    assert sent <= set(statuses)
    assert len(set(statuses) - sent) <= 1, "more than the one attempt that was being told"
    assert all(statuses[e] == "settled" for e in settled)
    assert sum(status == "unsettled" for status in statuses.values()) <= 1


def left_behind(folder: Path, *shards: str) -> None:
    """Journals of a process that died after sending: one attempt with an outcome and one without, each."""
    dead = FileJournal(folder)
    for k, shard in enumerate(shards):
        dead.sent([intent(10 * k + 1, shard), intent(10 * k + 2, shard)])
        dead.settled([outcome(10 * k + 1)])
    dead.close()


def test_a_torn_last_line_is_no_record(tmp_path: Path) -> None:
    left_behind(tmp_path, "s1")
    path = tmp_path / "journal/s1.jsonl"
    with path.open("ab") as file:
        file.write(records.encode(intent(3))[:-9])
    assert recover(tmp_path) == ["s1"]
    (part,) = parts.of_run(tmp_path)
    assert parts.read(part)["entry_id"].to_pylist() == ["e1", "e2"]


def test_an_adopted_shard_is_left_alone_and_goes_on(tmp_path: Path) -> None:
    left_behind(tmp_path, "batch", "plain")
    with (tmp_path / "journal/batch.jsonl").open("ab") as file:
        file.write(b'{"kind":"se')
    assert recover(tmp_path, adopt={"batch"}) == ["plain"]
    assert [i.entry_id for i in pending(tmp_path, "batch")] == ["e2"]
    with FileJournal(tmp_path) as journal:
        journal.settled([outcome(2)])
        part = journal.seal("batch")
    assert part is not None
    assert parts.read(part)["status"].to_pylist() == ["settled", "settled"]


def test_a_process_that_died_between_part_and_journal_is_finished_not_repeated(tmp_path: Path) -> None:
    left_behind(tmp_path, "s1")
    journal = (tmp_path / "journal/s1.jsonl").read_bytes()
    recover(tmp_path)
    (tmp_path / "journal/s1.jsonl").write_bytes(journal)
    (tmp_path / "parts/.s1.parquet.tmp").write_bytes(b"half a part")
    assert recover(tmp_path) == ["s1"]
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["s1.parquet"]


def test_a_damaged_journal_is_named_and_kept_and_the_others_are_sealed(tmp_path: Path) -> None:
    left_behind(tmp_path, "a", "b", "c")
    path = tmp_path / "journal/b.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00garbage\n" + lines[1])
    with pytest.raises(JournalError, match=r"b\.jsonl: line 2 of this journal is damaged"):
        recover(tmp_path)
    assert path.read_bytes().startswith(lines[0])
    assert [p.stem for p in parts.of_run(tmp_path)] == ["a", "c"]
    path.write_bytes(lines[2])
    with pytest.raises(JournalError, match="outcome of an attempt that the journal lacks"):
        recover(tmp_path)


@pytest.mark.parametrize("field", ["status", "cost_usd", "settled_at", "final"])
def test_a_record_that_lacks_something_is_damage(field: str) -> None:
    fields = json.loads(records.encode(outcome(1)))
    del fields[field]
    with pytest.raises(ValueError, match="no record"):
        records.decode(json.dumps(fields).encode())


def test_a_part_that_is_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("nothing")
    with pytest.raises(StoreError, match=r"x\.parquet: this part cannot be read"):
        parts.read(path)


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system takes half a line and then no more, as it does when the disk is full."""
    real = os.write
    room = [2]

    def full(handle: int, data: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: len(data) // 2]) if room[0] == 0 else real(handle, data)

    with FileJournal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "write", full)
            journal.sent([intent(1)])
            with pytest.raises(JournalError, match=r"s1\.jsonl: cannot be written: No space left on device"):
                journal.sent([intent(2)])
        journal.sent([intent(3)])
        part = journal.seal("s1")
    assert part is not None
    assert parts.read(part)["entry_id"].to_pylist() == ["e1", "e3"]


def test_a_journal_that_cannot_be_opened_undoes_what_the_same_call_wrote_elsewhere(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        (tmp_path / "journal" / "b.jsonl").symlink_to(tmp_path / "gone" / "b.jsonl")
        journal.sent([intent(0, "a")])
        with pytest.raises(JournalError, match=r"b\.jsonl"):
            journal.sent([intent(1, "a"), intent(2, "b")])
    assert [each.entry_id for each in pending(tmp_path, "a")] == ["e0"]


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    def work(k: int) -> None:
        for n in range(k * 100, k * 100 + 100):
            journal.sent([intent(n, f"s{n % 2}")])
            journal.settled([outcome(n)])

    with FileJournal(tmp_path) as journal:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sealed = [journal.seal("s0"), journal.seal("s1")]
    rows = [row for part in sealed if part for row in parts.read(part).to_pylist()]
    assert sorted(r["entry_id"] for r in rows) == sorted(f"e{n}" for n in range(800))
    assert {r["status"] for r in rows} == {"settled"}
