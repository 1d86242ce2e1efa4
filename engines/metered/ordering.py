"""The order of requests within a shard: shared prefixes side by side, and of these the long ones first."""

from __future__ import annotations

from collections.abc import Sequence

from thirdshift.engines.core.json import dumps
from thirdshift.router.values import Request

BLOCK = 128
"""Characters compared at a time. vLLM caches prefixes in blocks of 16 tokens on GPUs and 128 on CPUs; a shared
prefix shorter than this is hardly worth a hit."""


def prefix_text(request: Request) -> str:
    """Return what the prompt begins with, as the chat template will see it: tools, then the messages in turn."""
    head = dumps(request.tools).decode() if request.tools else ""
    turns = (f"{message.get('role')}\0{_content(message.get('content'))}" for message in request.messages)
    return head + "\0".join(turns)


def arrange(requests: Sequence[Request]) -> list[Request]:
    """Put requests with shared prefixes side by side, and of these the longest first.

    Prefix-cache hits come where equal beginnings follow one another, and the end comes soon where the longest requests
    start first. So among requests that share their next block, groups and single requests alike go by their longest
    member, and within a group the same again one block further on.
    """
    texts = [prefix_text(request) for request in requests]
    effort = [(request.max_tokens, len(text)) for request, text in zip(requests, texts, strict=True)]
    order: list[int] = []
    waiting = [(list(range(len(requests))), 0)]
    while waiting:
        group, depth = waiting.pop()
        if len(group) == 1 or all(len(texts[n]) <= depth for n in group):
            order.extend(group)
            continue
        shared: dict[str, list[int]] = {}
        for n in group:
            shared.setdefault(texts[n][depth : depth + BLOCK], []).append(n)
        # a stack: the longest goes on last, to come off first
        ranked = sorted(shared.values(), key=lambda members: max(effort[n] for n in members))
        waiting.extend((members, depth + BLOCK) for members in ranked)
    return [requests[n] for n in order]


def _content(content: object) -> str:
    return content if isinstance(content, str) else dumps(content).decode()
