"""An S3 on loopback that fails half the time, as a process of its own: moto behind a door that answers 503.

    with FailingStore(seed) as store:
        store.failing, store.whole      # the addresses of the door and of what is behind it

Of the requests that fail, half have been carried out: the answer is lost, not the work.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
KEYS = {
    "AWS_ACCESS_KEY_ID": "made",
    "AWS_SECRET_ACCESS_KEY": "up",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class FailingStore:
    """The process, from `with` to its end."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.failing = self.whole = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout is None:
            raise OSError("the store has no pipe")
        self.failing, self.whole = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def client(self) -> Any:
        """A client of what is behind the door."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.whole,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )


class Door(BaseHTTPRequestHandler):
    """Lets half of the requests through."""

    protocol_version = "HTTP/1.1"
    behind: str
    rng: random.Random

    def do_GET(self) -> None:
        body = self._body()
        fails, does_it = self.rng.random() < 0.5, self.rng.random() < 0.5
        status, headers, answer = 503, [("Content-Type", "application/xml")], BUSY
        if not fails or does_it:
            done = self._carried_out(body)
            if not fails:
                status, headers, answer = done
        self.send_response(status)
        kept = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        if "content-length" not in kept:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - as http.server calls them

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _carried_out(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("expect", "transfer-encoding", "content-length")
        }
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, response.getheaders(), answer

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    Door.behind, Door.rng = urlsplit(f"http://{host}:{port}").netloc, random.Random(int(sys.argv[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        threading.Thread(target=end_with_parent, daemon=True).start()
        print(json.dumps([f"http://127.0.0.1:{door.server_port}", f"http://{host}:{port}"]), flush=True)
        door.serve_forever()


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
