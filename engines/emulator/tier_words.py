"""An emulated batch in the words of one tier's row: what may be asked of it, and how its object looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thirdshift.engines.emulator.batches import EmulatedBatch, EmulatedBatchState
from thirdshift.router.tiers import BatchTier, TierState

MEANT = {
    EmulatedBatchState.COMPLETED: TierState.ENDED,
    EmulatedBatchState.EXPIRED: TierState.EXPIRED,
    EmulatedBatchState.CANCELLED: TierState.CANCELLED,
    EmulatedBatchState.FAILED: TierState.FAILED,
}


def refusal(tier: BatchTier, body: Mapping[str, Any], under_way: int) -> tuple[int, str] | None:
    """(status, words) where the row does not allow a batch to be made so; None where it does."""
    if body.get("endpoint") != tier.path:
        return 400, f"endpoint {tier.path} is wanted"
    if any(body.get(name) != value for name, value in tier.create.items()):
        return 400, f"wanted besides: {', '.join(tier.create)}"
    if tier.label == "filename" and "metadata" in body:
        return 400, "metadata: no such field"
    if tier.model_in_job and not isinstance(body.get("model"), str):
        return 400, "model is wanted"
    asked = tier.windows if tier.window_key == "completion_window" else ()
    if asked and body.get("completion_window") not in [window.name for window in asked]:
        return 400, "completion_window: no such window"
    hours = tier.window.hours if tier.window is not None and tier.window_key == "timeout_hours" else None
    if body.get("timeout_hours") != hours:
        return 400, "timeout_hours: no such window"
    if tier.limits.batches is not None and under_way >= tier.limits.batches:
        return 429, f"at most {tier.limits.batches} batches at once"
    return None


def status(tier: BatchTier, batch: EmulatedBatch) -> str:
    """A batch's state in the row's own word: the same word where the row has it, else the first that means it."""
    meant = MEANT.get(batch.state, TierState.RUNNING)
    same = next((word for word in tier.states if word.casefold() == batch.state.value), None)
    return same or next((word for word, state in tier.states.items() if state is meant), batch.state.value)


def described(tier: BatchTier, batch: EmulatedBatch, usual: dict[str, Any]) -> dict[str, Any]:
    """A batch's object as the row has it, from OpenAI's (`usual`)."""
    told = {**usual, "endpoint": tier.path, "status": status(tier, batch)}
    if tier.input_list:
        counts = told.pop("request_counts")
        told["input_files"] = [told.pop("input_file_id")]
        told["output_file"], told["error_file"] = told.pop("output_file_id"), told.pop("error_file_id")
        told |= {
            "total_requests": counts["total"],
            "completed_requests": counts["completed"] + counts["failed"],
        }
    if tier.label == "filename":
        return {
            "job": {name: value for name, value in told.items() if name not in ("metadata", "request_counts")}
        }
    return told
