"""What is seen of messages besides their text as they are read: pictures, files, and how they begin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.router.pricing.documents import document_tokens, documents_in
from thirdshift.router.pricing.pictures import Size, picture_tokens, pictures_in
from thirdshift.router.tokens.estimate import TokenColumn
from thirdshift.router.tokens.prefixes import NO_BEGINNINGS, Beginnings

PARTS = r'"content":\s*\['
"""In the JSON of messages that are made of parts, all of which may be text."""
WITH_MORE = r'"content":\[.*(image|"(file|input_file|document)")'
"""In the JSON of messages that hold more than text: a list of parts, one of them no text."""
Attached = tuple[list[Size], list[int]]
"""Width and height of each picture of a row, pages of each file."""


@dataclass(slots=True)
class Noted:
    """What is seen of messages besides their text, as they are read."""

    attached: dict[int, Attached] = field(default_factory=dict)
    """By row, where there is any that is counted."""
    parts: bool = False
    """Whether any message is made of parts."""
    beginnings: NDArray[np.uint64] = field(default_factory=NO_BEGINNINGS.copy)
    """Hashes of the beginnings that several rows have; known once all are read."""


def noting(
    read: Iterator[pa.RecordBatch], noted: Noted, rows: int, told: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """Yield the same batches, and note what is in them besides text, and how they begin."""
    row, beginnings = 0, Beginnings(rows)
    for batch in read:
        texts = batch.column("messages")
        beginnings.add(texts)
        if (made_of_parts := _matching(texts, PARTS)).size:
            noted.parts = True
            for place in made_of_parts[_matching(texts.take(pa.array(made_of_parts)), WITH_MORE)].tolist():
                messages = json.loads(texts[place].as_py())
                found = pictures_in(messages), documents_in(messages)
                if any(found):
                    noted.attached[row + place] = found
        row += batch.num_rows
        yield batch
        told(row)
    noted.beginnings = beginnings.repeated()


def _matching(texts: pa.Array, pattern: str) -> NDArray[np.int64]:
    """Return where texts match."""
    return np.flatnonzero(np.asarray(pc.match_substring_regex(texts, pattern), np.bool_))


def with_attached(column: TokenColumn, model: str, attached: Mapping[int, Attached]) -> TokenColumn:
    """The column with what pictures and files of its rows are expected to count for a model."""
    tokens = column.tokens.copy()
    for row, (sizes, pages) in attached.items():
        tokens[row] += picture_tokens(model, sizes) + document_tokens(model, pages)
    return replace(column, tokens=tokens)
