"""What PDF files in a prompt are counted as: by the page, its text and its picture, as providers say they do.

A file's bytes say nothing of its tokens: a page of text is a few kilobytes, a scanned one megabytes. Pages are counted
in the file, inside compressed object streams too; where that cannot be done, its bytes are the count.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence

from thirdshift.router.pricing.pictures import UNKNOWN_SIZE, picture_tokens, rule_for
from thirdshift.router.values import JSON

TEXT_TOKENS = 2_000
"""Text of one page, where it counts beside the page's picture. Anthropic's page on PDF support says 1,500 to 3,000
(2026-11-28); OpenAI's on file inputs says that both are counted, and not how many."""

TEXT_TOKENS_MOST = 6_000
"""Twice what they say at most."""

ALONE = {"gemini": 258}
"""Families that count a page as so many tokens and no text beside (ai.google.dev, document understanding, 2026-11-28)."""

UNREAD_PAGES = 100
"""Taken for a file behind a URL or an id: Anthropic's most for one request."""

INFLATED_MOST = 1 << 22
"""Bytes of one object stream that are looked through."""

_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
_OBJECTS = re.compile(rb"/Type\s*/ObjStm.{0,400}?stream\r?\n", re.DOTALL)


def is_document(part: Mapping[str, JSON]) -> bool:
    return part.get("type") in ("file", "input_file", "document")


def documents_in(messages: Sequence[Mapping[str, JSON]]) -> list[int]:
    """Pages of each file of a conversation that is a PDF, or that cannot be looked into."""
    pages = (pages_of(part) for part in _parts(messages) if is_document(part))
    return [count for count in pages if count is not None]


def document_tokens(model: str, pages: Sequence[int]) -> int:
    """What files of so many pages are expected to count."""
    family = rule_for(model).family
    page = ALONE.get(family) or TEXT_TOKENS + picture_tokens(model, [UNKNOWN_SIZE])
    return sum(pages) * page


def most_of_a_page(picture_ceiling: int) -> int:
    """Tokens of a page at most, where a picture is `picture_ceiling` at most."""
    return TEXT_TOKENS_MOST + picture_ceiling


def pages_of(part: Mapping[str, JSON]) -> int | None:
    """Pages of a file; None where it is no PDF, or one whose pages cannot be found: its bytes are then the count."""
    data = file_data(part)
    if data is None:
        return None if _is_text(part) else UNREAD_PAGES
    try:
        raw = b64decode(data.partition(",")[2] if data.startswith("data:") else data, validate=False)
    except ValueError:
        return None
    if b"%PDF-" not in raw[:1024]:
        return None
    return len(_PAGE.findall(raw)) + sum(len(_PAGE.findall(text)) for text in _inflated(raw)) or None


def file_data(part: Mapping[str, JSON]) -> str | None:
    """The base64 text of a file that comes with its part: OpenAI's `file` and `input_file`, Anthropic's `document`."""
    for held in (part.get("file"), part, part.get("source")):
        if isinstance(held, Mapping):
            data = held.get("file_data") or held.get("data")
            if isinstance(data, str) and not _is_text(part):
                return data
    return None


def _is_text(part: Mapping[str, JSON]) -> bool:
    """Whether a document is text as it stands (Anthropic's `text` and `content` sources)."""
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _inflated(raw: bytes) -> Iterator[bytes]:
    for match in _OBJECTS.finditer(raw):
        try:
            yield zlib.decompressobj().decompress(raw[match.end() :], INFLATED_MOST)
        except zlib.error:
            continue


def _parts(messages: Sequence[Mapping[str, JSON]]) -> Iterator[Mapping[str, JSON]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            yield from (part for part in content if isinstance(part, Mapping))
