#!/bin/sh
# langchain-core 1.8: `chain.with_retry().batch(rows, return_exceptions=True)` (abatch as well) gives a row that failed in every
# attempt the answer of another row that came right in the last one, and no exception: of the rows 0 to 4, where 1 answers at
# the second attempt of two and 3 never, comes A0 A1 A2 A1 A4. Guess: the answer stands in its row's place, and in 3's the exception,
# as it does where no other row was retried. Without return_exceptions it raises. The more rows a bad minute sends to the last
# attempt, the more of the lost ones look answered. Ours books each reply under its row (engines/core/attempts.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "langchain-core==1.8.3"
"$place/venv/bin/python" - <<'PY'
import asyncio
from collections import Counter

from langchain_core.runnables import RunnableLambda


def chain(comes_right, never):
    """A model that fails the first time for the rows of `comes_right`, and each time for those of `never`."""
    asked = Counter()

    def model(row):
        asked[row] += 1
        if row in never or (row in comes_right and asked[row] == 1):
            raise ConnectionError(row)
        return f"A{row}"

    return RunnableLambda(model).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)


def shown(answers):
    return [answer if isinstance(answer, str) else type(answer).__name__ for answer in answers]


rows = list(range(5))
alone = shown(chain([], [3]).batch(rows, return_exceptions=True))
assert alone == ["A0", "A1", "A2", "ConnectionError", "A4"], alone
both = shown(chain([1], [3]).batch(rows, return_exceptions=True))
assert both == ["A0", "A1", "A2", "A1", "A4"], both
asynchronous = shown(asyncio.run(chain([1], [3]).abatch(rows, return_exceptions=True)))
assert asynchronous == both, asynchronous
many = shown(chain([1, 2, 6], [3, 5, 8]).batch(list(range(9)), return_exceptions=True))
print("langchain-core as found: row 3 fails alone:", alone, "| row 1 comes right later:", both)
print("nine rows, 1, 2, 6 come right later and 3, 5, 8 never:", many)
assert many == ["A0", "A1", "A2", "A1", "A4", "A2", "A6", "A7", "ConnectionError"], many
PY
