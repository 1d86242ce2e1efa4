"""The emulator's process: settings come in on stdin, the port goes out on stdout; it ends when stdin does."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sys
import threading
from pathlib import Path

from aiohttp import web

from thirdshift.engines.emulator.answer_key import AnswerKey
from thirdshift.engines.emulator.answers import Oracle
from thirdshift.engines.emulator.process import EmulatorSettings
from thirdshift.engines.emulator.provider import Provider
from thirdshift.engines.emulator.server import application


def _end_with_parent(folder: Path) -> None:
    """Only the parent holds the other end of stdin: it ends when the parent does, kill -9 included."""
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _provider(settings: EmulatorSettings) -> Provider:
    recorded = None
    if settings.outcomes is not None:
        from thirdshift.engines.emulator.recorded_outcomes import Recorded

        names = [model.recorded_as or model.name for model in settings.models]
        recorded = Recorded(settings.outcomes, names)
    return Provider(settings.models, Oracle(settings.seed, AnswerKey(settings.known), recorded))


async def _serve(settings: EmulatorSettings) -> None:
    app = application(_provider(settings), settings.batches, settings.folder)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", settings.port).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, args=(settings.folder,), daemon=True).start()
    await asyncio.Event().wait()


def main() -> None:
    settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started us
    try:
        asyncio.run(_serve(settings))
    except (OSError, ValueError, KeyError) as error:
        sys.stdout.write(f"! {error}\n")


if __name__ == "__main__":
    main()
