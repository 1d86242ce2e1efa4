"""The demo's batch: four kinds of exercise with computable answers, from easy to hopeless for a small model.

Prompts are a word and its operands (`add 47 85`, `sort qbzad`, `reverse lantern`, `count s in possess`) in
lower-case letters, digits and spaces alone: 37 characters, so a model with a vocabulary of its own can read
them. References are exact strings over the same characters. Small operands repeat by chance, as real ones do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from string import ascii_lowercase, digits
from types import MappingProxyType

ALPHABET = f" {digits}{ascii_lowercase}"
"""Every character that a prompt or a reference can hold."""


@dataclass(frozen=True, slots=True)
class Item:
    """One exercise with its answer."""

    request_id: str
    task: str
    prompt: str
    reference: str
    difficulty: float
    """0 for the smallest of its task, 1 for the largest."""


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of exercise, from its smallest to its largest size."""

    smallest: int
    largest: int
    make: Callable[[int, random.Random], tuple[str, str]]
    """(size, rng) → (prompt, reference)."""

    def difficulty(self, size: int) -> float:
        """Return where a size lies between the smallest and the largest, 0 to 1."""
        return (size - self.smallest) / (self.largest - self.smallest)


def _letters(length: int, rng: random.Random, among: str = ascii_lowercase) -> str:
    return "".join(rng.choices(among, k=length))


def _number(length: int, rng: random.Random) -> int:
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _add(size: int, rng: random.Random) -> tuple[str, str]:
    left, right = _number(size, rng), _number(size, rng)
    return f"add {left} {right}", str(left + right)


def _sort(size: int, rng: random.Random) -> tuple[str, str]:
    letters = _letters(size, rng)
    return f"sort {letters}", "".join(sorted(letters))


def _reverse(size: int, rng: random.Random) -> tuple[str, str]:
    word = _letters(size, rng)
    return f"reverse {word}", word[::-1]


def _count(size: int, rng: random.Random) -> tuple[str, str]:
    # five letters, so that the asked one occurs often and the answer is not a guess among 0 and 1
    among = "".join(rng.sample(ascii_lowercase, 5))
    letters, letter = _letters(size, rng, among), rng.choice(among)
    return f"count {letter} in {letters}", str(letters.count(letter))


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "add": Task(1, 6, _add),  # digits of each number
        "sort": Task(3, 20, _sort),  # letters
        "reverse": Task(2, 16, _reverse),  # letters
        "count": Task(4, 24, _count),  # letters searched
    }
)


def item(task: str, size: int, rng: random.Random, request_id: str = "") -> Item:
    """Make one exercise of a given size, for a trainer that chooses sizes itself."""
    kind = TASKS[task]
    prompt, reference = kind.make(size, rng)
    return Item(request_id, task, prompt, reference, kind.difficulty(size))


def items(n: int = 2000, seed: int = 3) -> Iterator[Item]:
    """Yield `n` exercises, tasks in turn, sizes evenly among each task's; the same seed gives the same ones."""
    rng = random.Random(seed)  # noqa: S311 - exercises, not secrets
    names = list(TASKS)
    for number in range(n):
        name = names[number % len(names)]
        kind = TASKS[name]
        yield item(name, rng.randint(kind.smallest, kind.largest), rng, f"{name}-{number:06d}")
