"""Pictures are counted by their family's rule, and reserved at its ceiling, however many bytes carry them."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from typing import Any

import pytest

from thirdshift.router.pricing.pictures import (
    OTHERS,
    RULES,
    UNKNOWN_SIZE,
    picture_tokens,
    pictures_in,
    rule_for,
    size_of,
)
from thirdshift.router.pricing.prices import sent_bytes
from thirdshift.router.values import Request


def png(width: int, height: int, padding: int = 0) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    whole = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b64encode(whole + b"\0" * padding).decode()


def jpeg(width: int, height: int) -> str:
    thumbnail = b"\xff\xe1" + struct.pack(">H", 20_002) + b"\0" * 20_000
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + b"\0" * 12
    return b64encode(b"\xff\xd8" + thumbnail + frame).decode()


def request(*parts: dict[str, Any]) -> Request:
    return Request(
        0, "r", "h", "t", ({"role": "user", "content": [{"type": "text", "text": "what?"}, *parts]},)
    )


def picture(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


@pytest.mark.parametrize(("data", "size"), [(png(640, 480), (640, 480)), (jpeg(1200, 900), (1200, 900))])
def test_a_pictures_size_is_read_from_its_head(data: str, size: tuple[int, int]) -> None:
    assert size_of(data) == size
    assert pictures_in(request(picture(data)).messages) == [size]


def test_what_is_no_picture_we_know_is_taken_to_be_of_middle_size() -> None:
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert pictures_in(request(url, picture("no base64 ä"), picture("")).messages) == [UNKNOWN_SIZE] * 3


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("openai/gpt-4o", (1024, 1024), 765),
        ("openai/gpt-4o", (2048, 4096), 1105),
        ("anthropic/claude-sonnet-4-5", (1092, 1092), 1590),
        ("gemini/gemini-2.5-flash", (300, 300), 258),
        ("gemini/gemini-2.5-flash", (960, 540), 1548),
    ],
)
def test_the_examples_on_providers_pages_come_out(model: str, size: tuple[int, int], tokens: int) -> None:
    assert picture_tokens(model, [size]) == tokens


def test_no_picture_is_planned_above_its_ceiling_and_every_rule_has_a_source() -> None:
    for rule in (*RULES, OTHERS):
        assert rule.source
        for size in ((1, 1), (8000, 8000), (20_000, 50), UNKNOWN_SIZE):
            assert picture_tokens(rule.family, [size]) <= rule_for(rule.family).ceiling


def test_a_pictures_bytes_are_no_tokens() -> None:
    small, large = (sent_bytes(request(picture(png(640, 480, padding))), 1_000) for padding in (0, 400_000))
    assert small == large < 1_200
    assert sent_bytes(request(picture(png(640, 480)), picture(png(640, 480))), 1_000) > 2_000
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 120_000, "format": "mp3"}}
    assert 10_000 <= sent_bytes(request(sound), 1_000) < 11_000
