"""How much memory a model's weights take, and whether the devices have it: seen before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from thirdshift.engines.core.json import loads
from thirdshift.engines.devices import Machine, width
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


def weights_problems(model: str, spec: WorkerSpec, here: Machine) -> Iterator[str]:
    """Yield why the weights do not fit the devices of one worker. Names on a hub are not known before they are fetched."""
    devices = here.of(spec.device)
    memory = devices[0].memory_mib if spec.device != "cpu" and devices else None
    size = weights_bytes(Path(model).expanduser())
    if memory is None or size is None:
        return
    quantised = SHRUNK.get(str(spec.options.get("quantization")), 1.0)
    count = width(spec.options)
    offloaded = float(spec.options.get("cpu_offload_gb", 0.0)) * (1 << 30)
    each, share = size * quantised / count - offloaded, share_of(spec.options, spec.device)
    if each > share * memory * MIB:
        total = size * quantised / 1e9
        fits = next(
            (n for n in (1, 2, 4, 8, 16, 32) if size * quantised / n < 0.8 * share * memory * MIB), 64
        )
        yield (
            f"the weights take {total:,.0f} GB, {each / 1e9:,.0f} on each of {count} {devices[0].name}, which has "
            f"{share * memory * MIB / 1e9:,.0f} for vLLM; tensor_parallel_size: {fits} would hold them, or take weights of "
            "fewer bits"
        )
