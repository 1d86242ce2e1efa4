"""Which folder is a run's: it lies beside the warehouse, and a marker in it says so.

Whatever is removed or replaced for a run lies in such a folder.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from thirdshift.warehouse.errors import StoreError

MARKER = "pid.lock"
"""The first file of every run's folder; the process on the run holds its lock."""


def run_folder(warehouse: Path, run_id: str) -> Path:
    """Return where a run keeps its files: `<warehouse file>.d/<run_id>/`. Raises StoreError if the id leads out of it."""
    steps = PurePath(run_id)
    if not steps.parts or steps.is_absolute() or ".." in steps.parts or "\0" in run_id:
        raise StoreError(f"run id {run_id!r} leads out of the folder {warehouse.name}.d; no run can have it")
    return warehouse.with_name(warehouse.name + ".d") / run_id


def check_marked(folder: Path) -> None:
    """Raise StoreError where the folder holds files and no marker, so that they are no run's; absent and empty will do."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and MARKER not in names:
        raise StoreError(
            f"{folder} holds files that are no run's, and is left alone: move them away or choose another run id; "
            f"if it is a run's that was copied without its {MARKER}, put an empty file of that name there"
        )


def folder_to_change(warehouse: Path, run_id: str) -> Path | None:
    """Return the folder of a run that the warehouse knows; None where it has none.

    Raises StoreError where what lies there is not marked as a run's.
    """
    try:
        folder = run_folder(warehouse, run_id)
    except StoreError:  # entered by a version that took any id: its files are not beside the warehouse
        return None
    if not folder.is_dir():
        return None
    check_marked(folder)
    return folder
