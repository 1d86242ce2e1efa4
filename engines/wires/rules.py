"""What words and numbers in replies mean: finish reasons, codes, phrases, statuses, one table each.

`docs/replies.md` shows replies by provider and server with their sources; each of its rows is read by these.
"""

from __future__ import annotations

from dataclasses import dataclass

from thirdshift.router.values import FailureKind

_F = FailureKind

FINISH: dict[str, FailureKind | None] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "normal"), None),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), None),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length", "token_limit", "max_length"), None),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "refusal", "sensitive", "safety", "recitation", "blocklist",
         "prohibited_content", "spii", "guardrail_intervened", "language", "image_safety", "image_prohibited_content",
         "image_recitation", "model_armor", "risk_control"),
        _F.REFUSED,
    ),
    **dict.fromkeys(
        ("error", "error_toxic", "abort", "aborted", "cancelled", "canceled", "cancel", "timeout", "network_error",
         "insufficient_system_resource", "malformed_function_call", "malformed_response", "malformed_model_output",
         "unexpected_tool_call", "too_many_tool_calls", "invalid_tool_call", "repetition", "repetition_detected",
         "repetition_truncation", "pause_turn", "engine_overloaded", "user_cancelled", "shutdown", "failed",
         "error_limit", "user_cancel", "not_finished", "time_limit", "malformed_tool_use", "other",
         "finish_reason_unspecified", "missing_thought_signature", "no_image", "image_other", "load", "unload"),
        _F.PARTIAL,
    ),
    "model_context_window_exceeded": _F.CONTEXT_OVERFLOW,
}  # fmt: skip
"""A finish reason in small letters, and what it makes of the reply; None: an answer. One that is not here is taken for
an answer where there is a text."""

CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "token_limit", "max_length"})

STATUS_KINDS: dict[int, FailureKind] = {
    401: _F.AUTH,
    402: _F.AUTH,
    403: _F.AUTH,
    404: _F.NOT_FOUND,
    405: _F.NOT_FOUND,
    407: _F.AUTH,
    408: _F.OVERLOADED,
    409: _F.OVERLOADED,
    410: _F.NOT_FOUND,
    413: _F.CONTEXT_OVERFLOW,
    425: _F.RATE_LIMITED,
    424: _F.OVERLOADED,
    429: _F.RATE_LIMITED,
    451: _F.AUTH,
    498: _F.OVERLOADED,
    499: _F.TIMEOUT,
    501: _F.BAD_REQUEST,
    504: _F.TIMEOUT,
    524: _F.TIMEOUT,
}
"""Statuses with a meaning of their own; other 4xx are bad requests, 5xx overload, 3xx a wrong address. 504 (Cloudflare's
524) comes from a gateway that did not wait for a model which goes on, and is billed."""

DECIDED_STATUS = frozenset({401, 402})
"""Statuses that speak of the key or the account, whatever was sent."""

CODE_KINDS: dict[str, FailureKind] = {
    **dict.fromkeys(
        ("context_length_exceeded", "string_above_max_length", "request_too_large", "exceed_context_size_error",
         "max_tokens_exceeded", "model_max_prompt_tokens_exceeded",
         "context_window_exceeded", "tokens_limit_reached", "1261", "minimax-1039"),
        _F.CONTEXT_OVERFLOW,
    ),
    **dict.fromkeys(
        ("content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed",
         "content_moderation", "moderation_blocked", "responsibleaipolicyviolation", "sensitive_content",
         "invalid_prompt", "1301", "minimax-1026", "minimax-1027"),
        _F.REFUSED,
    ),
    **dict.fromkeys(
        ("insufficient_quota", "insufficient_balance", "insufficient_user_quota", "insufficient_credits",
         "billing_hard_limit_reached", "billing_error", "billing_not_active", "arrearage", "account_deactivated",
         "invalid_api_key", "invalidapikey", "authentication_error", "incorrect_api_key", "budget_exceeded",
         "exceededbudget", "quota_exceeded_monthly", "permission_denied_error", "exceeded_current_quota_error",
         "unsupported_country_region_territory", "1113", "minimax-1008", "minimax-1004", "minimax-2049"),
        _F.AUTH,
    ),
    **dict.fromkeys(("model_not_found", "modelnotfound", "model_not_supported", "deployment_not_found",
                     "deploymentnotfound", "invalid_model"), _F.NOT_FOUND),
    **dict.fromkeys(
        ("rate_limit_exceeded", "rate_limit_error", "throttling", "throttling.ratequota", "throttling.allocationquota",
         "too_many_requests", "resource_exhausted", "limitrequests", "usage_limit_reached", "1302", "1305", "1308",
         "minimax-1002", "minimax-1041", "minimax-2045", "minimax-2056"),
        _F.RATE_LIMITED,
    ),
    **dict.fromkeys(("json_validate_failed", "tool_use_failed"), _F.PARTIAL),
    **dict.fromkeys(("overloaded_error", "capacity_exceeded", "server_error",
                     "internal_server_error", "engine_overloaded", "unavailable",
                     "service_unavailable", "minimax-1000", "minimax-1001",
                     "minimax-1013", "minimax-1024", "minimax-1033", "1234"), _F.OVERLOADED),
    **dict.fromkeys(("invalid_request_error", "invalidparameter", "invalid_argument", "minimax-2013", "1210", "1214"),
                    _F.BAD_REQUEST),
}  # fmt: skip
"""An error's `code` or `type` in small letters, where it says more than the status. Numbers without a name
are Zhipu's (1100s to 1300s), which come as text."""

GENERIC = frozenset({_F.BAD_REQUEST, _F.OVERLOADED})
"""Kinds of codes that say no more than a status does: phrases come first, and for 429 the status."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words in an error, small letters, that say what it is; `remedy`: what a person can do."""

    words: tuple[str, ...]
    kind: FailureKind
    remedy: str | None = None
    decided: bool = False
    """It is the endpoint's fault, whatever was sent. Any one of the words is enough."""
    for_ever: bool = False
    """It is so under 429 too: to wait is in vain."""
    generated: bool = False
    """The model had answered by then, and that may be billed."""


PHRASES: tuple[Phrase, ...] = (
    Phrase(("request too large for", "required for long context requests"), _F.CONTEXT_OVERFLOW,
           "it is longer than this account may send in a minute, or at all: send such rows elsewhere", for_ever=True),
    Phrase(("output blocked by content filtering",), _F.REFUSED, generated=True),
    Phrase(("specified api usage limits", "organization has been disabled"), _F.AUTH,
           "the account's limit is reached: raise it at the provider, or wait until the day that it names", decided=True),
    Phrase(("user location is not supported", "country, region, or territory not supported"), _F.AUTH,
           "the provider does not serve this place: send from another, or elsewhere", decided=True),
    Phrase(
        ("credit balance is too low", "credit balance too low", "insufficient balance", "insufficient funds",
         "exceeded your current quota", "insufficient credit", "not enough credit", "out of credits", "no credits",
         "billing hard limit", "account is in arrears", "overdue payment", "payment required", "top up your",
         "add credits", "purchase credits", "balance is insufficient", "exceeded current quota", "余额不足", "欠费"),
        _F.AUTH, "the account is empty: top it up and resume", decided=True,
    ),
    Phrase(
        ("budget has been exceeded", "budget_exceeded", "crossed budget", "over budget", "exceededbudget",
         "exceeded budget", "spend limit", "spending limit", "monthly limit"),
        _F.AUTH, "its budget is spent: raise the proxy's or the key's budget and resume", decided=True,
    ),
    Phrase(
        ("context length", "context window", "maximum context", "prompt is too long", "input is too long",
         "too many input tokens", "maximum model length", "max_model_len", "exceeds the available context size",
         "maximum number of tokens allowed", "input token count", "longer than the maximum", "reduce the length",
         "`inputs` tokens + `max_new_tokens`", "maximum prompt length", "exceed context limit", "context shift is disabled",
         "exceeded model token limit", "model max length exceeded", "number of tokens in the prompt cannot exceed"),
        _F.CONTEXT_OVERFLOW,
    ),
    Phrase(("roles must alternate", "system role not supported", "raise_exception("), _F.BAD_REQUEST,
           "the model's chat template takes no such order of roles: merge messages of one role, or the system's into the"
           " first"),
    Phrase(("model has crashed", "model unloaded", "cuda out of memory"), _F.OVERLOADED,
           "the server has lost its model: see its log, and its memory"),
    Phrase(("max_tokens must be less than", "invalid max_tokens value", "maximum allowed number of output tokens"),
           _F.BAD_REQUEST, "the model writes fewer tokens at once: lower max_tokens"),
    Phrase(
        ("requires --enable-auto-tool-choice", "--enable-auto-tool-choice", "--tool-call-parser"),
        _F.BAD_REQUEST, "start vLLM with --enable-auto-tool-choice and --tool-call-parser",
    ),
    Phrase(("--reasoning-parser",), _F.BAD_REQUEST, "start vLLM with the --reasoning-parser of its model"),
    Phrase(("--enable-lora",), _F.BAD_REQUEST, "start vLLM with --enable-lora"),
    Phrase(("limit-mm-per-prompt", "at most 0 image", "may be provided in one"), _F.BAD_REQUEST,
           "start vLLM with a larger --limit-mm-per-prompt, or send fewer pictures"),
    Phrase(
        ("image input is not supported", "does not support image", "not a multimodal model",
         "no endpoints found that support image", "unknown part type", "audio input is not supported",
         "model does not support vision", "only supports text"),
        _F.BAD_REQUEST, "the model takes no pictures: send these rows to one that does (llama.cpp: --mmproj)",
    ),
    Phrase(("tools param requires --jinja", "requires --jinja", "--jinja flag"), _F.BAD_REQUEST,
           "start llama.cpp with --jinja"),
    Phrase(("does not support tools", "tool use is not supported", "no endpoints found that support tool use"),
           _F.BAD_REQUEST, "the model calls no tools: send these rows to one that does"),
    Phrase(
        ("moderation", "content policy", "content management policy", "usage policy", "usage policies",
         "safety system", "flagged", "inappropriate content", "data inspection", "violates our",
         "violating our", "敏感", "违规"),
        _F.REFUSED,
    ),
    Phrase(("incorrect api key", "invalid api key", "invalid x-api-key", "api key not valid", "no api key"),
           _F.AUTH, "the key is not taken: see the variable that api_key_env names", decided=True),
    Phrase(("model is not found", "does not exist or you do not have access", "no such model", "model not found",
            "is not a valid model", "unknown model", "model identifier is invalid",
            "with on-demand throughput isn"),
           _F.NOT_FOUND, "the server has no such model: see `model` and what its /v1/models lists", decided=True),
)  # fmt: skip
"""The first that is found counts. Servers without codes say it in words, under whatever status."""

PARAMETERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("max_tokens", ("unsupported parameter: 'max_tokens'", "use 'max_completion_tokens' instead")),
    ("max_completion_tokens", ("unrecognized request argument supplied: max_completion_tokens",
                               "unsupported parameter: 'max_completion_tokens'", "max_completion_tokens is not")),
    ("temperature", ("unsupported parameter: 'temperature'", "'temperature' does not support",
                     "temperature is not supported", "don't support temperature",
                     "`temperature` is deprecated", "does not support temperature",
                     "only the default (1) value is supported", "invalid temperature: only 1 is allowed")),
    ("strict_schema", ("invalid schema for response_format",)),
    ("schema_keywords", ("unimplemented keys", "unsupported json schema", "schema contains features not supported",
                         "failed to convert the grammar", "grammar error", "unsupported schema", "uniqueitems",
                         "is not supported by xgrammar", "invalid grammar", "unsupported schema feature",
                         "unsupported keyword", "schema is not supported", "does not support the following json schema",
                         "json schema not supported", "failed to compile")),
    ("response_format", ("response_format type is unavailable", "json_schema` is unavailable",
                         "must contain the word 'json'", "'response_format' of type",
                         "not support response format", "not support response_format",
                         "response_format parameter is unsupported", "response_format is not supported",
                         "'response_format' is not supported", "supplied: response_format", "'response_format.type'",
                         "response_format.type: ", "response_format type must be", "json mode is not supported",
                         "json mode is not enabled", "not support structured output",
                         "structured outputs are not supported")),
)  # fmt: skip
"""What a server refuses to be sent, by its words; the first that is found. What then is sent instead is the wire's."""

PARAMETER_CODES = frozenset({"unsupported_parameter", "unsupported_value"})
"""OpenAI's codes that go with `param`, the parameter's name."""

NOT_RUN_CODES = frozenset({"batch_expired", "batch_cancelled", "batch_canceled"})
