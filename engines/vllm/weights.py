"""How much memory a model's weights take, and whether the devices have it: seen before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from thirdshift.engines.core.json import loads
from thirdshift.engines.devices import Machine, width
from thirdshift.engines.devices.model_shape import config_of, folders_of, shape_of
from thirdshift.engines.vllm.sizing import share_of
from thirdshift.router.values import WorkerSpec

INDEX = "model.safetensors.index.json"
SHRUNK = {"fp8": 0.5, "bitsandbytes": 0.3, "ascend": 1.0}
"""What is left of 16-bit weights that vLLM quantises while it loads them; the files on disk are whole."""
MIB = 1 << 20


def weights_bytes(folder: Path) -> int | None:
    """Return the size of a model's weights on disk; None where it is not a folder with weights."""
    try:
        index = loads((folder / INDEX).read_bytes())
        return int(index["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
        return sum(sizes) or None


def loaded_bytes(model: str, spec: WorkerSpec) -> float | None:
    """Return what a model's weights take once they are loaded: by the files on disk or in the hub's cache, else by its
    config.json; None where neither is here yet."""
    quantised = SHRUNK.get(str(spec.options.get("quantization")), 1.0)
    sizes = (weights_bytes(folder) for folder in folders_of(model))
    size = next((size for size in sizes if size is not None), None)
    if size is not None:
        return size * quantised
    config = config_of(model)
    shape = None if config is None else shape_of(config, spec.options)
    return None if shape is None else shape.parameters * shape.weight_bytes


def weights_problems(model: str, spec: WorkerSpec, here: Machine) -> Iterator[str]:
    """Yield why the weights do not fit the devices of one worker, as far as they are known before they are fetched."""
    devices = here.of(spec.device)
    memory = devices[0].memory_mib if spec.device != "cpu" and devices else None
    size = loaded_bytes(model, spec)
    if memory is None or size is None:
        return
    count = width(spec.options)
    offloaded = float(spec.options.get("cpu_offload_gb", 0.0)) * (1 << 30)
    each, share = size / count - offloaded, share_of(spec.options, spec.device)
    if each > share * memory * MIB:
        total = size / 1e9
        fits = next((n for n in (1, 2, 4, 8, 16, 32) if size / n < 0.8 * share * memory * MIB), 64)
        yield (
            f"the weights take {total:,.0f} GB, {each / 1e9:,.0f} on each of {count} {devices[0].name}, which has "
            f"{share * memory * MIB / 1e9:,.0f} for vLLM; tensor_parallel_size: {fits} would hold them, or take weights of "
            "fewer bits"
        )
