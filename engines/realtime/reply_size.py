"""How long a reply may be, by what was asked for; read and decompressed a piece at a time, never beyond that."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

import aiohttp

from thirdshift.router.values import JSON

FRAME_BYTES = 1 << 20
"""Whatever stands around the text: names, usage, citations, what a model thought beside its budget."""
TOKEN_BYTES = 512
"""One token of text: the longest of common vocabularies have 128 bytes, and JSON may write each as an escape."""
LOGPROB_BYTES = 8192
"""One token with its twenty alternatives, bytes and all."""
CALL_BYTES = 64 << 20
"""An answer about batches: a page of a hundred with their metadata."""
PIECE = 1 << 18

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_BARE = -zlib.MAX_WBITS


class TooLongError(Exception):
    """A reply is longer than anything that was asked for."""


def reply_bytes_max(body: Mapping[str, JSON], max_tokens: int) -> int:
    """The most that the reply to a request's `body` may have, decompressed."""
    token_bytes = LOGPROB_BYTES if body.get("logprobs") else TOKEN_BYTES
    return FRAME_BYTES + token_bytes * max_tokens


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body. Raises TooLongError, and ValueError where it is compressed as nobody asked."""
    length = response.content_length
    if length is not None and length <= most and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for piece in pieces(response):
        body += piece
        if len(body) > most:
            raise TooLongError
    return bytes(body)


async def pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed, no piece larger than PIECE."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for piece in response.content.iter_chunked(PIECE):
            yield piece
        return
    if encoding not in ("gzip", "deflate", "x-gzip"):
        raise ValueError(f"content-encoding {encoding[:20]} was not asked for")
    unpacker = None
    async for packed in response.content.iter_chunked(PIECE):
        if unpacker is None:
            unpacker = _unpacker(packed)
        rest, more = packed, True
        while rest or more:
            try:
                piece = unpacker.decompress(rest, PIECE)
            except zlib.error as error:
                raise ValueError("the reply cannot be decompressed") from error
            rest, more = unpacker.unconsumed_tail, len(piece) == PIECE
            yield piece
    if unpacker is not None and not unpacker.eof:
        raise ValueError("the compressed reply breaks off")


def _unpacker(start: bytes) -> zlib._Decompress:
    """For gzip, zlib, and deflate without its header, as some servers send it."""
    probe = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        probe.decompress(start, 1)
    except zlib.error:
        return zlib.decompressobj(_BARE)
    return zlib.decompressobj(_GZIP_OR_ZLIB)
