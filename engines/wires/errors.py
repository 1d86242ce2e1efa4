"""What an error says: whose fault it is, what a person can do, when to come back. Nothing is billed for one.

Bodies differ: `{"error": {…}}`, an error as a text or a list, FastAPI's `detail`, MiniMax's `base_resp`, codes as numbers
or as text. The code says most, then the words, then the status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from thirdshift.engines.core.transport import Reply
from thirdshift.engines.wires.parsing import as_text
from thirdshift.engines.wires.rules import (
    CODE_KINDS,
    DECIDED_STATUS,
    GENERIC,
    PARAMETER_CODES,
    PARAMETERS,
    PHRASES,
    STATUS_KINDS,
    Phrase,
)
from thirdshift.engines.wires.usage import read_usage
from thirdshift.engines.wires.waits import wait_told
from thirdshift.router.values import FailureKind

WORDS = ("message", "msg", "status_msg", "detail", "error_msg", "error_message", "reason", "description")
CODES = ("code", "type", "status", "error_code", "status_code", "innererror")
NUMBER = re.compile(r"(minimax-)?\d{3,6}")
MAYBE_BILLED = frozenset({FailureKind.TIMEOUT, FailureKind.PARTIAL})
"""Errors of a model that was at work: a gateway that did not wait for it, an answer that its server threw away."""
SUCCESS = (200, "200", "0", "success", "Success", "ok")
"""Codes that say that there is no error."""
READ_CHARACTERS = 20_000
"""So much of an error's words is looked through."""


def read_error(status: int, data: Any, raw: bytes | str = b"") -> Reply:
    """What a complete error says. One that tells a usage all the same has cost it; one that came after the model had
    answered may have."""
    error = error_in(data) or {}
    codes, words = tuple(_codes(error)), _words(error, raw)
    wait = wait_told(error, words)
    kind, phrase = meaning(status, codes, words, wait)
    usage = read_usage(data.get("usage")).usage if isinstance(data, dict) else None
    billed = usage is not None and usage.output_tokens > 0
    decided = kind in (FailureKind.AUTH, FailureKind.NOT_FOUND) and (
        status in DECIDED_STATUS or (phrase is not None and phrase.decided) or _by_code(codes) is kind
    )
    return Reply(
        kind=kind,
        message=_message(status, codes, error, phrase),
        unbilled=not billed and surely_unbilled(kind, phrase),
        usage=usage if billed else None,
        decided=decided,
        retry_after=wait if kind in (FailureKind.RATE_LIMITED, FailureKind.OVERLOADED) else None,
        said=as_text(raw),
        parameter=_parameter(codes, error, words) if kind is FailureKind.BAD_REQUEST else None,
    )


def surely_unbilled(kind: FailureKind, phrase: Phrase | None) -> bool:
    """Whether an error without a usage can have cost nothing."""
    return kind not in MAYBE_BILLED and not (phrase is not None and phrase.generated)


def meaning(
    status: int, codes: tuple[str, ...], words: str, wait: float | None = None
) -> tuple[FailureKind, Phrase | None]:
    """The kind of an error, by its code, its words, its status; and the phrase that was found in it. `wait`: what it asks
    for."""
    by_code = _by_code(codes)
    phrase = next((phrase for phrase in PHRASES if _holds(phrase, words)), None)
    if status == 413 and by_code in (None, FailureKind.RATE_LIMITED) and phrase is None:
        return FailureKind.CONTEXT_OVERFLOW, None
    if by_code is not None and by_code not in GENERIC and by_code is not FailureKind.RATE_LIMITED:
        return by_code, phrase if phrase is not None and phrase.kind is by_code else None
    if status == 429 and wait is not None and phrase is not None and phrase.kind is FailureKind.AUTH:
        return FailureKind.RATE_LIMITED, None  # Gemini says of a minute's quota what others say of an account
    if phrase is not None and not _about_rate(status, phrase):
        return phrase.kind, phrase
    if by_code is FailureKind.RATE_LIMITED:
        return by_code, None
    if status in STATUS_KINDS:
        return STATUS_KINDS[status], None
    if 300 <= status < 400:
        return FailureKind.NOT_FOUND, None
    if status >= 500 and by_code is not None:
        return by_code, None
    return (FailureKind.OVERLOADED if status >= 500 else FailureKind.BAD_REQUEST), None


def _about_rate(status: int, phrase: Phrase) -> bool:
    """A 429 about tokens a minute may speak of lengths; it is a wait all the same."""
    return (
        status == 429
        and not phrase.for_ever
        and phrase.kind in (FailureKind.CONTEXT_OVERFLOW, FailureKind.BAD_REQUEST)
    )


def _by_code(codes: tuple[str, ...]) -> FailureKind | None:
    """The first code that says something of its own; else the first that says anything."""
    kinds = [CODE_KINDS[code.lower()] for code in codes if code.lower() in CODE_KINDS]
    return next((kind for kind in kinds if kind not in GENERIC), kinds[0] if kinds else None)


def _holds(phrase: Phrase, words: str) -> bool:
    return any(word in words for word in phrase.words)


def error_in(data: Any) -> Mapping[str, Any] | None:
    """The error that a body tells, as an object; None where it tells none."""
    if isinstance(data, list):  # Gemini's
        return next(
            (fault for item in data[:3] if isinstance(item, dict) and (fault := error_in(item))), None
        )
    if not isinstance(data, dict):
        return {"message": data} if isinstance(data, str) and data else None
    base = data.get("base_resp")
    if isinstance(base, dict):  # MiniMax's
        code = base.get("status_code")
        if isinstance(code, int | str) and str(code) not in ("0", ""):
            return {"code": f"minimax-{code}", "message": str(base.get("status_msg") or "")}
    error = data.get("error")
    if isinstance(error, list):
        error = next((item for item in error if isinstance(item, dict | str) and item), None)
    if isinstance(error, dict) and error:
        return error
    if isinstance(error, str) and error:
        return {**{name: data[name] for name in CODES if name in data}, "message": error}
    if data.get("code") in SUCCESS:
        return None
    if "choices" not in data and any(data.get(name) for name in (*WORDS, "code", "errors", "error_code")):
        return data
    return None


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    for name in CODES:
        value = error.get(name)
        if isinstance(value, dict):
            value = value.get("code")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value) <= 64:
            yield value


def _words(error: Mapping[str, Any], raw: bytes | str) -> str:
    """All that an error says, in small letters."""
    texts = [str(error[name]) for name in WORDS if error.get(name)]
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):  # OpenRouter: what its provider said
        texts.append(str(metadata["raw"]))
    return (" ".join(texts) or as_text(raw, READ_CHARACTERS))[:READ_CHARACTERS].lower()


def _message(status: int, codes: tuple[str, ...], error: Mapping[str, Any], phrase: Phrase | None) -> str:
    param = error.get("param")
    names = [name for name in (*codes, param) if isinstance(name, str) and _is_name(name)]
    text = f"status {status}" + (f" ({', '.join(dict.fromkeys(names))})" if names else "")
    return text if phrase is None or phrase.remedy is None else f"{text}: {phrase.remedy}"


def _is_name(text: str) -> bool:
    """Whether a provider's code is a name that can be shown, not prose that could hold a prompt or a key."""
    plain = text.replace("_", "").replace(".", "").replace("-", "").isalpha()
    return len(text) <= 48 and (plain or NUMBER.fullmatch(text) is not None)


def _parameter(codes: tuple[str, ...], error: Mapping[str, Any], words: str) -> str | None:
    """What the server does not want to be sent."""
    param = error.get("param")
    if isinstance(param, str) and PARAMETER_CODES & set(codes):
        return param
    return parameter_in(words)


def parameter_in(words: str) -> str | None:
    """What the server does not want to be sent, by its error's words alone, in small letters; None: they name nothing."""
    return next((name for name, phrases in PARAMETERS if any(word in words for word in phrases)), None)
