"""The questions of docs/sql.md are answered by the demo's warehouse."""

from __future__ import annotations

from pathlib import Path

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
    assert total("What does one good answer cost, by task?", "cost_usd") == pytest.approx(
        float(spent), abs=1e-9
    )
