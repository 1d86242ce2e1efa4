"""The demo's exercises: right, repeatable, graded, and within 37 characters."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from thirdshift.flows.cli.demo.exercises import ALPHABET, TASKS, Item, item, items


def solve(prompt: str) -> str:
    """By another road than the generator's."""
    match prompt.split():
        case ["add", left, right]:
            return str(int(left) + int(right))
        case ["sort", letters]:
            return "".join(letter * letters.count(letter) for letter in ALPHABET if letter in letters)
        case ["reverse", word]:
            return "".join(word[-1 - i] for i in range(len(word)))
        case ["count", letter, "in", letters]:
            return str(len(letters.split(letter)) - 1)
    raise AssertionError(prompt)


def test_every_reference_is_the_right_answer() -> None:
    for one in items(4000, seed=11):
        assert one.reference == solve(one.prompt), one


def test_the_same_seed_gives_the_same_items_and_another_seed_others() -> None:
    assert list(items(200)) == list(items(200))
    assert list(items(200)) == list(islice(items(2000), 200))
    assert [one.prompt for one in items(200, seed=1)] != [one.prompt for one in items(200, seed=2)]


def test_ids_are_unique_and_tasks_come_in_equal_parts() -> None:
    batch = list(items(2000))
    assert len({one.request_id for one in batch}) == 2000
    assert Counter(one.task for one in batch) == dict.fromkeys(TASKS, 500)


def test_prompts_and_references_keep_to_the_alphabet_and_are_short() -> None:
    assert len(ALPHABET) == 37
    for one in items(4000):
        assert set(one.prompt + one.reference) <= set(ALPHABET), one
        assert len(one.prompt) <= 36
        assert one.reference.strip() == one.reference != ""


@pytest.mark.parametrize("task", sorted(TASKS))
def test_difficulty_runs_from_nothing_to_one_with_size(task: str) -> None:
    kind = TASKS[task]
    made = [item(task, size, random.Random(size)) for size in range(kind.smallest, kind.largest + 1)]
    assert (made[0].difficulty, made[-1].difficulty) == (0.0, 1.0)
    assert all(one.difficulty < two.difficulty for one, two in pairwise(made))
    assert {one.difficulty for one in items(2000) if one.task == task} == {one.difficulty for one in made}


def test_both_an_easy_half_and_a_hard_half_exist() -> None:
    def share(batch: list[Item]) -> float:
        return sum(one.difficulty <= 0.5 for one in batch) / len(batch)

    assert 0.45 < share(list(items(2000))) < 0.6
