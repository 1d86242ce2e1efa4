"""Every connection of every client, written down: by an audit hook in each Python process that a command starts.

    env = recording(folder)                    # for the command
    connections(folder)                        # {("127.0.0.1", 8123), …} and names that were looked up, with port None

An audit hook is told by Python itself before a socket connects or a name is looked up, whatever library does it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

HOOK = """
import json, os, sys

def told(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host, port = arguments[1][:2]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host, port = arguments[0], None
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    line = json.dumps([host, port]) + "\\n"
    handle = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)

sys.addaudithook(told)
"""


def recording(folder: Path) -> dict[str, str]:
    """Variables under which every Python process writes its connections down in `folder`."""
    home = folder / "hook"
    home.mkdir(exist_ok=True)
    (home / "sitecustomize.py").write_text(f"RECORD = {str(folder / 'connections.jsonl')!r}\n{HOOK}")
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def connections(folder: Path) -> set[tuple[str | None, int | None]]:
    """(host or address, port) of every connection, and (name, None) of every name that was looked up."""
    lines = (folder / "connections.jsonl").read_text().splitlines()
    return {(host, port) for host, port in map(json.loads, lines)}
