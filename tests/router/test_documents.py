"""PDF files in prompts are counted by their pages, not by their bytes."""

from __future__ import annotations

import zlib
from base64 import b64encode
from typing import Any

import pytest

from thirdshift.router.pricing.documents import UNREAD_PAGES, document_tokens, documents_in
from thirdshift.router.pricing.pictures import rule_for
from thirdshift.router.pricing.prices import sent_bytes
from thirdshift.router.values import Request

PAGE = b"<< /Type /Page /Parent 2 0 R >>\n"


def pdf(pages: int, padding: int = 0, *, compressed: bool = False) -> str:
    """A file as writers make it: objects as they are, or (from PDF 1.5 on) in a compressed stream."""
    objects = b"<< /Type /Pages /Count %d >>\n" % pages + PAGE * pages
    if compressed:
        packed = zlib.compress(objects)
        head = b"5 0 obj << /Type /ObjStm /N 3 /Filter /FlateDecode /Length %d >>\nstream\r\n" % len(packed)
        objects = head + packed + b"\nendstream"
    return b64encode(b"%PDF-1.7\n" + objects + b"\0" * padding + b"\n%%EOF").decode()


def openais(data: str) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}}


def anthropics(data: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return {"type": "document", "source": source}


def request(*parts: dict[str, Any]) -> Request:
    text = {"type": "text", "text": "what?"}
    return Request(0, "r", "h", "t", ({"role": "user", "content": [text, *parts]},))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part", [openais, anthropics])
def test_a_files_pages_are_counted_on_either_wire(part: Any, compressed: bool) -> None:
    assert documents_in(request(part(pdf(12, compressed=compressed))).messages) == [12]


def test_a_files_bytes_are_no_tokens() -> None:
    ceiling = rule_for("anthropic/claude-sonnet-4-5").ceiling
    small, large = (sent_bytes(request(openais(pdf(3, padding))), ceiling) for padding in (0, 4_000_000))
    assert small == large
    assert 3 * ceiling < small < 30_000
    expected = document_tokens("anthropic/claude-sonnet-4-5", [3])
    assert 3 * 1_500 < expected < small
    assert document_tokens("gemini/gemini-2.5-flash", [3]) == 3 * 258


def test_a_file_that_is_elsewhere_is_taken_to_be_as_long_as_files_may_be() -> None:
    elsewhere = {"type": "file", "file": {"file_id": "file-1"}}
    assert documents_in(request(elsewhere).messages) == [UNREAD_PAGES]


@pytest.mark.parametrize("data", ["no base64 ä", "", b64encode(b"a,b\n1,2\n").decode(), pdf(0)])
def test_what_is_no_pdf_or_hides_its_pages_is_counted_by_its_bytes(data: str) -> None:
    asked = request(openais(data), {"type": "document", "source": {"type": "text", "data": "plain"}})
    assert documents_in(asked.messages) == []
    assert sent_bytes(asked, 1_000) >= len(data)
