#!/bin/sh
# aiohttp 3.14: a GET, PUT or DELETE whose kept connection closes before the reply is sent once more, by itself and without a
# word; there is no setting. Guess: a client without a retry option sends once and raises, as httpx2 does, and as aiohttp does
# for POST and PATCH. A server that had acted on it acts twice: of a DELETE the caller sees the second reply, a 404.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "aiohttp==3.14.5" "httpx2==2.16.2"
"$place/venv/bin/python" - <<'PY'
import asyncio
from collections import Counter

import aiohttp
import httpx2

acted = Counter()


async def serve(reader, writer):
    """Answer the first request of a connection; act on the second and close without a reply, as a server that restarts."""
    number = 0
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].split(b":")[1]))
            number += 1
            acted[head.split(b" ")[0].decode().upper()] += 1
            if number == 2:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for method, times in (("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)):
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as first:
                await first.read()
            acted.clear()
            try:
                async with session.request(method, url, data=b"x") as reply:
                    said = f"status {reply.status}"
            except aiohttp.ServerDisconnectedError as error:
                said = type(error).__name__
        assert acted[method] == times, (method, acted)
        print("aiohttp", aiohttp.__version__, "as found:", method, "acted on", times, "times,", said)
    async with httpx2.AsyncClient() as client:
        await client.get(url)
        acted.clear()
        try:
            await client.put(url, content=b"x")
        except httpx2.RemoteProtocolError:
            pass
        assert acted["PUT"] == 1, acted
    print("httpx2", httpx2.__version__, "as found: PUT acted on once")


asyncio.run(main())
PY
