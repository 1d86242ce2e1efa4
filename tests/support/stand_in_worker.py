"""Speaks the worker's side of the pipe in place of vLLM, to show what a real engine shows seldom.

It takes the options that a job passes through: `faults_above` (out of memory with more requests than that at once),
`never_ready` (prints and waits), `loads` (seconds before it is ready), `seconds` (per lot of answers), `adds` (answers the
sum of the numbers asked about),
`starts` (a file that each start appends its options to), `log` and `fails` (the log of a real engine that is printed by the
first so many starts, which then end), `dies` (a log printed instead of the first answers of the first process),
`environment` (a file for the names of its variables).
"""

import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any


def say(**told: object) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


def end_as(log: str, message: str) -> None:
    """End as vLLM does: the engine's process has printed what it was, the worker knows no more than that it is gone."""
    with open(log, "rb") as file:
        os.write(2, file.read())
    say(op="fault", kind="engine", message=message)
    sys.exit(1)


class Book:
    """What a provider would bill, written down at once; several workers share a file."""

    def __init__(self, path: str) -> None:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # a worker dies with what started it
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        threading.Thread(target=self._live, daemon=True).start()

    def write(self, *prompts: str) -> None:
        line = {"pid": os.getpid(), "actor": os.getppid(), "at": time.time(), "answered": prompts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def _live(self) -> None:
        while True:
            self.write()
            time.sleep(0.2)


def reply(options: dict[str, Any], prompt: str) -> str:
    numbers = re.findall(r"\d+", prompt) if options.get("adds") else ()
    if numbers:
        return str(sum(map(int, numbers)))
    return os.environ.get(options["tells"], "") if "tells" in options else f"{os.getpid()}"


def written_down(options: dict[str, Any]) -> int:
    """Write down the environment and the options where the job asks for it; return how often a worker was started."""
    if options.get("environment"):
        with open(options["environment"], "w") as file:
            json.dump(list(os.environ), file)
    if not options.get("starts"):
        return 1
    with open(options["starts"], "a+") as file:
        file.write(json.dumps(options) + "\n")
        file.seek(0)
        return len(file.readlines())


def main() -> None:
    options = json.loads(sys.stdin.readline())["options"]
    book = Book(options["book"]) if options.get("book") else None
    start = written_down(options)
    if start <= options.get("fails", 0):
        end_as(options["log"], "Engine core initialization failed. See root cause above.")
    if options.get("never_ready"):
        os.write(2, b"loading shard 3 of 9\n")
        time.sleep(60)
    time.sleep(options.get("loads", 0.0))
    most = options.get("max_num_seqs", 8)
    say(op="ready", vllm="stand-in", max_model_len=512, max_num_seqs=most)
    waiting = []
    for line in sys.stdin:
        message = json.loads(line)
        if message["op"] == "stop":
            break
        if message["op"] == "ask":
            prompt = message["messages"][-1]["content"]
            waiting.append((message["id"], reply(options, prompt), prompt))
            continue
        while waiting:
            lot, waiting = waiting[:most], waiting[most:]
            if options.get("dies") and start == 1:
                end_as(options["dies"], "EngineDeadError: EngineCore encountered an issue.")
            if len(lot) > options.get("faults_above", most):
                say(op="fault", kind="out_of_memory", message="OutOfMemoryError: out of memory")
                sys.exit(1)
            time.sleep(options.get("seconds", 0.0))
            if book is not None:
                book.write(*(prompt for _, _, prompt in lot))
            for number, text, _ in lot:
                say(op="answer", id=number, text=text, reasoning=None, finish_reason="stop",
                    input_tokens=10, output_tokens=2, cached_tokens=0, reasoning_tokens=0)  # fmt: skip


main()
