"""What an engine raises: only what makes it unusable as a whole. What befalls a request is a value."""

from __future__ import annotations


class EngineError(Exception):
    """An endpoint cannot be used as it is described; the message says which, why and what to do."""


class MissingExtraError(EngineError):
    """A package that this endpoint needs is not installed."""


class BadEndpointError(EngineError):
    """An endpoint's parameters contradict what an engine promises."""


class UnknownBatchError(EngineError):
    """A batch was perhaps made, and cannot be told from others before it is over; nothing was sent again."""


class ClosedError(EngineError):
    """The engine was closed before the shard was done; what it had sent is in the journal."""
