"""The questions of docs/sql.md are answered by the demo's warehouse."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.support.questions import QUESTIONS, TEXT
from thirdshift.warehouse.store.ask import ask

WITHOUT_ROWS = {"What has no answer, and why?", "What may the provider still charge?"}
"""Where the demo has nothing to tell: nothing goes wrong in it."""


def test_there_are_a_dozen_questions_and_more() -> None:
    assert len(QUESTIONS) == TEXT.count("```sql") == TEXT.count("\n## ") >= 12
    assert QUESTIONS.keys() >= WITHOUT_ROWS


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_an_answer(question: str, demo_night: Path) -> None:
    answer = ask(demo_night / "warehouse.duckdb", QUESTIONS[question])
    assert (answer.num_rows > 0) == (question not in WITHOUT_ROWS)


def test_the_money_of_the_questions_is_the_ledgers(demo_night: Path) -> None:
    warehouse = demo_night / "warehouse.duckdb"

    def total(question: str, column: str) -> float:
        return float(sum(ask(warehouse, QUESTIONS[question])[column].to_pylist()))

    (spent,) = ask(warehouse, "select sum(cost_usd) as usd from ledger")["usd"].to_pylist()
    assert total("Where did the money go?", "cost_usd") == pytest.approx(float(spent), abs=1e-9)
    assert total("Who pays?", "total_usd") == pytest.approx(float(spent), abs=1e-9)
    assert total("What does one good answer cost, by task?", "settled_usd") == pytest.approx(
        float(spent), abs=1e-9
    )


UNSETTLED = """
insert into ledger by name
select * replace ('never-learnt' as entry_id, 'unsettled' as status, 7 as cost_usd) from ledger
where purpose = 'main' and status = 'settled' limit 1
"""


@pytest.mark.parametrize(
    "question",
    [
        "Where did the money go?",
        "What does one good answer cost, by task?",
        "How far was the estimate off?",
        "What have we spent this month, day by day?",
    ],
)
def test_what_was_never_learnt_is_told_apart_from_what_is_settled(
    question: str, demo_night: Path, tmp_path: Path
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    warehouse.write_bytes((demo_night / "warehouse.duckdb").read_bytes())
    before = ask(warehouse, QUESTIONS[question]).to_pylist()
    with duckdb.connect(str(warehouse)) as con:
        con.execute(UNSETTLED)
    after = ask(warehouse, QUESTIONS[question]).to_pylist()
    settled, unsettled = (
        [sum(row[name] for row in rows) for rows in (before, after)]
        for name in ("settled_usd", "unsettled_usd")
    )
    assert settled[0] == settled[1] > 0
    assert unsettled == [0, 7]
