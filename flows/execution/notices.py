"""`notify:`: a webhook is told how a run ended, and that it waits for approval; beside the run, never in its way.

A notice has names and figures, no text of prompts or answers. The webhook's URL is a secret: nothing here shows it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from thirdshift.flows.errors import UserError
from thirdshift.flows.execution.approval import Ask, ask_nobody
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.summary import RunSummary, figures_of, lines
from thirdshift.flows.verdicts import Verdict, verdicts_of
from thirdshift.warehouse.errors import WarehouseError

LAST_SECONDS = 15.0
"""How long the end of a run waits for what is still being told; then it ends all the same."""

OF_VERDICT: Mapping[Verdict, tuple[str, ...]] = {
    Verdict.BUDGET: ("stop",),
    Verdict.APPROVAL: ("approval", "stop"),
    Verdict.DEADLINE: ("stop",),
    Verdict.ERRORS: ("done",),
    Verdict.FLOOR_MISSED: ("floor_missed",),
    Verdict.NOT_CERTIFIED: ("floor_missed",),
}
"""What a verdict is to whoever is told: words of `notify.on`, the first is the notice's."""


def events_of(summary: RunSummary) -> tuple[str, ...]:
    """Say what the end of a run is, in the words of `notify.on`."""
    verdicts = verdicts_of(summary.outcomes)
    return tuple(dict.fromkeys(word for verdict in verdicts for word in OF_VERDICT[verdict])) or ("done",)


class Notifier:
    """Tells the job's webhook, where it has one. A rehearsal tells nobody."""

    def __init__(self, context: RunContext, say: Callable[[str], None]) -> None:
        self._context, self._say = context, say
        self._part = None if context.call.emulated else context.job.notify
        self._under_way: list[threading.Thread] = []

    def ended(self, summary: RunSummary) -> None:
        """Tell how a run ended: once, whatever applies to it."""
        figures = {"outcomes": summary.outcomes} | figures_of(summary)
        certificate = summary.certificate
        if certificate is not None:
            claim = ("floor", "lower_bound", "confidence", "certified", "basis")
            figures["certificate"] = {name: getattr(certificate, name) for name in claim}
        bare = replace(summary, notes=())  # a note may quote a judge's answer
        how = "done" if summary.exit == 0 else f"exit {summary.exit}, {', '.join(summary.outcomes)}"
        self._tell(events_of(summary), "\n".join([how, *lines(bare)]), figures)

    def broke_off(self, error: BaseException) -> None:
        """Tell that a run ended before its end. What a fault of ours says may hold anything, so its kind is told alone."""
        if isinstance(error, UserError | WarehouseError):
            code = getattr(error, "exit_code", 1)
            self._tell(("stop",), f"exit {code}: {error}", {"exit": code, "outcomes": ["failed"]})
        elif isinstance(error, Exception):
            self.interrupted(f"{type(error).__name__}; its log says more")
        else:
            self.interrupted()

    def interrupted(self, why: str = "it was told to stop") -> None:
        """Tell that a run ended before its end, and how it goes on."""
        go_on = f"what was answered is kept: thirdshift resume {self._context.run_id}"
        self._tell(("stop",), f"stopped: {why}\n{go_on}", {"exit": None, "outcomes": ["interrupted"]})

    def asking(self, ask: Ask) -> Ask:
        """Return `ask`, with the webhook told that somebody is asked. Where nobody is, the run's end tells it."""

        def told(context: RunContext, why: str) -> bool:
            self._tell(
                ("approval",), f"waits for approval: {why}\nApprove of it in Prefect's UI.", {"why": why}
            )
            return ask(context, why)

        return ask if ask is ask_nobody else told

    def close(self) -> None:
        """Wait a moment for what is still being told."""
        for thread in self._under_way:
            thread.join(LAST_SECONDS)

    def _tell(self, events: tuple[str, ...], text: str, figures: Mapping[str, Any]) -> None:
        part = self._part
        event = None if part is None else next((word for word in events if word in part.on), None)
        if part is None or event is None:
            return
        context = self._context
        shown = f"thirdshift {context.job.name}, run {context.run_id}: {text}"
        if part.format == "slack":
            body: dict[str, Any] = {"text": _escaped(shown)}
        else:
            names = {"event": event, "job": context.job.name, "run_id": context.run_id}
            body = {**names, "text": shown, "warehouse": str(context.warehouse), **figures}
        thread = threading.Thread(target=self._deliver, args=(part.url_env, body), name="notify", daemon=True)
        self._under_way.append(thread)
        thread.start()

    def _deliver(self, variable: str, body: dict[str, Any]) -> None:
        from thirdshift.flows.execution import webhook

        try:
            webhook.post(os.environ.get(variable, ""), body)
        except Exception as error:  # noqa: BLE001 (whatever a webhook does, the run is none the worse)
            self._say(f"notify: the webhook that {variable} names was not told: {webhook.reason(error)}")


def _escaped(text: str) -> str:
    """Return text as Slack takes it: three characters have a meaning there."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
