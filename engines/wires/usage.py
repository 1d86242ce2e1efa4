"""What a reply says it used, whatever the provider calls it; and whether that can be so.

Figures come as integers, floats or digit strings. Reasoning is told in the completion (OpenAI), beside it (xAI), or in
the total alone (Gemini): what the total has beyond the parts is billed as output. A figure that cannot be is no usage:
it is kept as text, and the attempt costs its reservation. (What the request itself makes impossible, `core` sees.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from thirdshift.engines.core.json import dumps
from thirdshift.router.values import JSON, Usage

TOKENS_MAX = 20_000_000
"""In or out, of one call: twice the longest context window on offer."""

FIGURE_BYTES = 400
"""So much of a usage that is not believed is kept."""

PROMPT = ("prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount")
COMPLETION = ("completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount")
TOTAL = ("total_tokens", "totalTokens", "totalTokenCount")
PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details")
CACHED = (
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "cacheReadInputTokens",
    "cachedContentTokenCount",
)
WRITTEN = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
)
BESIDE = frozenset({"cache_read_input_tokens", "cacheReadInputTokens"})
"""Where one of these is told, the prompt is told without it (Anthropic's, Bedrock's)."""
HOUR = ("cache_creation_token_details", "cache_creation")
"""Names of the same figure, as providers have them; the first that is a count is taken, details before the flat ones."""


class ReportedUsage(NamedTuple):
    """What was told, and what is believed of it."""

    usage: Usage | None = None
    certain: bool = True
    """False: the figures contradict each other, and `usage` is their dearest reading."""
    figure: str | None = None
    """As it came, where it is not believed."""


PLAIN = {"prompt_tokens", "completion_tokens", "total_tokens"}
NOTHING_TOLD = ReportedUsage()


def read_usage(reported: JSON, *, answered: bool = False) -> ReportedUsage:
    """The usage of a chat completion. `answered`: there is a text, so that no output at all cannot be."""
    if not isinstance(reported, dict) or not reported:
        return NOTHING_TOLD if not reported else _disbelieved(reported)
    prompt, completion = reported.get("prompt_tokens"), reported.get("completion_tokens")
    if len(reported) == len(PLAIN) and reported.keys() == PLAIN:
        plain = _plain(prompt, completion, reported["total_tokens"])
        if plain is not None:
            return plain
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        prompt, completion = _first(reported, PROMPT), _first(reported, COMPLETION)
    total = _first(reported, TOTAL)
    if prompt is None:
        return _disbelieved(reported)
    if completion is None:
        completion = 0 if total is None else max(0, total - prompt)
    cached, written, hour = _cache(reported)
    prompt, agree = _whole_prompt(reported, prompt, completion, cached + written, total)
    reasoning = _detail(reported, COMPLETION_DETAILS, ("reasoning_tokens",)) or 0
    completion, reasoning, certain = _with_reasoning(prompt, completion, reasoning, total)
    if prompt == 0 or (answered and completion == 0):
        return _disbelieved(reported)
    if prompt > TOKENS_MAX or completion > TOKENS_MAX:
        return _disbelieved(reported)
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    usage = Usage(prompt, completion, cached, min(reasoning, completion), written, min(hour, written))
    return ReportedUsage(usage, certain and agree)


def _plain(prompt: Any, completion: Any, total: Any) -> ReportedUsage | None:
    """The usage where it is told in three figures that agree, as most servers do."""
    if not (type(prompt) is type(completion) is type(total) is int):
        return None
    if 0 < prompt < TOKENS_MAX and 0 < completion < TOKENS_MAX and total == prompt + completion:
        return ReportedUsage(Usage(prompt, completion))
    return None


def _cache(reported: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens read from a cache, tokens that one was given to keep, and those of them that it keeps for an hour."""
    cached = _detail(reported, PROMPT_DETAILS, CACHED) or _first(reported, CACHED) or 0
    written = _detail(reported, PROMPT_DETAILS, WRITTEN) or _first(reported, WRITTEN) or 0
    if not written:
        return cached, 0, 0
    details = next(
        (reported[name] for name in PROMPT_DETAILS if isinstance(reported.get(name), dict)), reported
    )
    kept: Mapping[str, Any] = next(
        (group[name] for group in (details, reported) for name in HOUR if isinstance(group.get(name), dict)),
        {},
    )
    return cached, written, count(kept.get("ephemeral_1h_input_tokens")) or 0


def _whole_prompt(
    reported: Mapping[str, Any], prompt: int, completion: int, of_cache: int, total: int | None
) -> tuple[int, bool]:
    """(the prompt with what came from a cache or went to one, whether the figures agree): Anthropic, and who passes its
    figures on, count these beside it. More of a cache than there is prompt, in a field that counts what the prompt holds,
    is a contradiction."""
    if not of_cache:
        return prompt, True
    by_name = not BESIDE.isdisjoint(reported)
    in_total = total is not None and total == prompt + completion + of_cache
    if in_total or (by_name and "prompt_tokens" not in reported):
        return prompt + of_cache, True
    return (prompt + of_cache, by_name) if of_cache > prompt else (prompt, True)


def _with_reasoning(prompt: int, completion: int, reasoning: int, total: int | None) -> tuple[int, int, bool]:
    """(all that is billed as output, reasoning among it, whether the figures agree)."""
    hidden = 0 if total is None else max(0, total - prompt - completion)
    if not hidden and reasoning <= completion:
        return completion, reasoning, True
    if reasoning <= completion or reasoning <= hidden:
        return completion + hidden, max(reasoning, hidden), True
    return completion + max(reasoning, hidden), reasoning, False


def count(value: Any) -> int | None:
    """A number of tokens: integer, float (rounded up) or digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value) if len(value) < 40 else math.nan
        except ValueError:
            return None
    if isinstance(value, float):
        return math.ceil(value) if math.isfinite(value) and value >= 0 else None
    return value if isinstance(value, int) and value >= 0 else None


def _first(group: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        if name in group and (number := count(group[name])) is not None:
            return number
    return None


def _detail(reported: Mapping[str, Any], groups: tuple[str, ...], names: tuple[str, ...]) -> int | None:
    for group in groups:
        details = reported.get(group)
        if isinstance(details, dict) and (number := _first(details, names)):
            return number
    return None


def _disbelieved(reported: JSON) -> ReportedUsage:
    try:
        figure = dumps(reported)[:FIGURE_BYTES].decode(errors="ignore")
    except (TypeError, ValueError, RecursionError):
        figure = "(cannot be written)"
    return ReportedUsage(figure=f"usage not believed: {figure}")


def anthropic_usage(reported: JSON) -> JSON:
    """Anthropic's figures under the names that `read_usage` reads, the cache's among the prompt."""
    if not isinstance(reported, dict):
        return reported
    entered = count(reported.get("input_tokens"))
    if entered is None:
        return reported
    read, written = (count(reported.get(f"cache_{kind}_input_tokens")) or 0 for kind in ("read", "creation"))
    return {
        "prompt_tokens": entered + read + written,
        "completion_tokens": reported.get("output_tokens", 0),
        "prompt_tokens_details": {
            "cached_tokens": read,
            "cache_creation_tokens": written,
            "cache_creation_token_details": reported.get("cache_creation"),
        },
        **{name: reported[name] for name in ("service_tier", "inference_geo", "speed") if name in reported},
    }
