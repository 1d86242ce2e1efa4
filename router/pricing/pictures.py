"""What pictures and sound in a prompt are counted as: per model family, by its provider's published rule.

A picture is no text: its bytes say nothing of its tokens. Each family has a ceiling per picture, which is what is reserved,
and a rule by width and height, which is what is planned with; usage then corrects the plan as it does for text.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from thirdshift.router.values import JSON

UNKNOWN_SIZE = (1024, 1024)
"""A picture behind a URL, or of a format that is not read here, is taken to be of this size."""

HEAD_CHARACTERS = 87_384
"""Base64 of the first 64 kB: a JPEG's size stands after its thumbnail."""

SOUND_BYTES_PER_TOKEN = 12
"""Base64 bytes of one token of sound, at least: 32 tokens a second (Gemini's rule, the highest we know) of 4 kbit/s."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PictureRule:
    """One family's."""

    family: str
    """A pattern over the model's name, small letters; the first that is found counts."""
    ceiling: int
    """Tokens of one picture at most, whatever its size and detail."""
    tokens: Callable[[Size], float]
    source: str
    as_of: str = "2026-11-28"


def _by_area(per_token: float, longest: int) -> Callable[[Size], float]:
    """One token per so many pixels, scaled down to a longest edge first."""

    def tokens(size: Size) -> float:
        width, height = _within(size, longest)
        return width * height / per_token

    return tokens


def _by_tiles(base: int, tile: int) -> Callable[[Size], float]:
    """OpenAI's: within 2048, the shorter side 768, tiles of 512."""

    def tokens(size: Size) -> float:
        width, height = _within(size, 2048)
        scale = min(1.0, 768 / min(width, height))
        return base + tile * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)

    return tokens


def _by_patches(factor: float, most: int) -> Callable[[Size], float]:
    """OpenAI's smaller models and later ones: patches of 32, at most so many."""
    return lambda size: factor * min(most, math.ceil(size[0] / 32) * math.ceil(size[1] / 32))


def _gemini(size: Size) -> float:
    """258 for a small picture, else 258 for each tile of two thirds of its shorter side, 768 at most."""
    if max(size) <= 384:
        return 258
    unit = min(768, max(256, math.floor(min(size) / 1.5)))
    return 258 * math.ceil(size[0] / unit) * math.ceil(size[1] / unit)


OPENAI = "platform.openai.com, images and vision: calculating costs"
RULES = (
    PictureRule("claude.*(opus-4-[789]|opus-5|sonnet-5|haiku-5|fable|mythos)", 4_784, _by_area(750, 2576),
                "platform.claude.com, vision: high resolution"),
    PictureRule("claude", 1_640, _by_area(750, 1568), "platform.claude.com, vision"),
    PictureRule("gpt-4o-mini", 48_169, _by_tiles(2833, 5667), OPENAI),
    PictureRule("gpt-(4o|4.1(?!-(mini|nano))|4.5)", 1_445, _by_tiles(85, 170), OPENAI),
    PictureRule("gpt-4.1-nano|gpt-5-nano", 3_779, _by_patches(2.46, 1536), OPENAI),
    PictureRule("gpt-4.1-mini|gpt-5-mini", 2_489, _by_patches(1.62, 1536), OPENAI),
    PictureRule("o4-mini", 2_642, _by_patches(1.72, 1536), OPENAI),
    PictureRule("gpt-5(?![.])", 1_190, _by_tiles(70, 140), OPENAI),
    PictureRule("gpt-(5[.]|6)", 12_000, _by_patches(1.2, 2500), f"{OPENAI}; `original` detail has up to 10,000 patches"),
    PictureRule("(^|/)o[13](-|$)", 1_275, _by_tiles(75, 150), OPENAI),
    PictureRule("gemini", 8_256, _gemini, "ai.google.dev, token counting; media resolution"),
    PictureRule("qwen.*vl|qwen3[.]|qvq", 16_384, _by_area(28 * 28, 3584), "QwenLM/Qwen3-VL, README: max_pixels"),
)  # fmt: skip
OTHERS = PictureRule(
    "", 16_384, _by_area(750, 2048), "the highest ceiling among those above that is no outlier"
)


def rule_for(model: str) -> PictureRule:
    """The rule of a model's family."""
    name = model.casefold()
    return next((rule for rule in RULES if re.search(rule.family, name)), OTHERS)


def picture_tokens(model: str, sizes: Sequence[Size]) -> int:
    """What pictures of these sizes are expected to count."""
    rule = rule_for(model)
    return sum(min(rule.ceiling, math.ceil(rule.tokens(size))) for size in sizes)


def is_picture(part: Mapping[str, JSON]) -> bool:
    return "image" in str(part.get("type", ""))


def is_sound(part: Mapping[str, JSON]) -> bool:
    return "audio" in str(part.get("type", ""))


def pictures_in(messages: Sequence[Mapping[str, JSON]]) -> list[Size]:
    """Width and height of each picture of a conversation."""
    return [_size(part) for message in messages for part in _parts(message) if is_picture(part)]


def _parts(message: Mapping[str, JSON]) -> Iterator[Mapping[str, JSON]]:
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        yield from (part for part in content if isinstance(part, Mapping))


def _size(part: Mapping[str, JSON]) -> Size:
    data = data_of(part)
    return UNKNOWN_SIZE if data is None else size_of(data) or UNKNOWN_SIZE


def data_of(part: Mapping[str, JSON]) -> str | None:
    """The base64 text of a part that carries its picture or sound with it."""
    for name in ("image_url", "image", "input_image", "source", "input_audio", "audio"):
        data = part.get(name)
        if isinstance(data, Mapping):
            data = data.get("url") or data.get("data")
        if isinstance(data, str):
            if data.startswith("data:"):
                return data.partition(",")[2]
            if name in ("source", "input_audio", "audio"):
                return data
    return None


def size_of(data: str) -> Size | None:
    """Width and height of a PNG, GIF, JPEG or WebP; None where it is none."""
    try:
        head = b64decode(data[: HEAD_CHARACTERS - HEAD_CHARACTERS % 4] + "===", validate=False)
    except ValueError:
        return None
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        return _sane(int.from_bytes(head[16:20]), int.from_bytes(head[20:24]))
    if head.startswith(b"GIF8") and len(head) >= 10:
        return _sane(int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little"))
    if head.startswith(b"\xff\xd8"):
        return _jpeg(head)
    if head[8:12] == b"WEBP" and head[12:16] == b"VP8X" and len(head) >= 30:
        return _sane(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    return None


def _jpeg(head: bytes) -> Size | None:
    """The size stands in the first start-of-frame segment."""
    at = 2
    while at + 9 < len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _sane(int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7]))
        at += 2 + max(2, length)
    return None


def _sane(width: int, height: int) -> Size | None:
    return (width, height) if 0 < width < 100_000 and 0 < height < 100_000 else None


def _within(size: Size, longest: int) -> tuple[float, float]:
    scale = min(1.0, longest / max(size))
    return size[0] * scale, size[1] * scale
