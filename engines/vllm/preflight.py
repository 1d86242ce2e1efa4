"""Find what keeps local workers from starting before anything is spent: sentences, each with a remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from thirdshift.engines.core.json import loads
from thirdshift.engines.devices import VARIABLES, Machine, machine, width
from thirdshift.engines.devices.ascend import generation
from thirdshift.engines.devices.device import complaint
from thirdshift.engines.vllm.packages import PROGRAM, told
from thirdshift.engines.vllm.weights import weights_problems
from thirdshift.router.values import JSON, Endpoint, WorkerSpec

PROBE_SECONDS = 60.0
NAMES, TOOLS = {"cuda": "NVIDIA GPU", "npu": "Ascend NPU"}, {"cuda": "nvidia-smi", "npu": "npu-smi info"}
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def check(endpoint: Endpoint, known: Machine | None = None) -> list[str]:
    """Return the problems of an endpoint's workers, an empty list for none. Starts its interpreter, loads nothing."""
    spec = endpoint.workers
    if spec is None:
        return []
    here = machine() if known is None else known
    problems = [*_options(spec), *_interpreter(spec, here), *_devices(spec, here), *_model(endpoint, spec)]
    problems += weights_problems(endpoint.model, spec, here)
    return [f"endpoint {endpoint.name}: {problem}" for problem in problems]


def oversized(endpoint: Endpoint, known: Machine | None = None) -> list[str]:
    """Return why the devices of this machine do not hold an endpoint's weights. Starts nothing."""
    here = machine() if known is None else known
    problems = [] if endpoint.workers is None else weights_problems(endpoint.model, endpoint.workers, here)
    return [f"endpoint {endpoint.name}: {problem}" for problem in problems]


def _options(spec: WorkerSpec) -> Iterator[str]:
    copies = spec.options.get("data_parallel_size", 1)
    if copies != 1:
        yield f"data_parallel_size {copies} is for vLLM's server; for so many copies of a model use `workers: {copies}`"


def _interpreter(spec: WorkerSpec, here: Machine) -> Iterator[str]:
    path = shutil.which(spec.python)
    if path is None:
        yield f"there is no Python at {spec.python}; `make setup-vllm` makes .venv-vllm, or name one under python:"
        return
    has = _probe(path)
    if has is None:
        yield f"{spec.python} does not run as a Python interpreter; name one that has vLLM under python:"
    elif not has["vllm"]:
        yield f"{spec.python} has no vLLM; `make setup-vllm` installs it into .venv-vllm, or name another under python:"
    elif spec.device == "cuda" and has.get("cpu"):
        yield (
            f"device cuda, but the vLLM of {spec.python} is the CPU's build, and would answer at a GPU's price; "
            "`make setup-vllm DEVICE=cuda` installs the other, or name its interpreter under python:"
        )
    elif spec.device == "npu" and "ascend" not in has["plugins"]:
        yield (
            f"device npu needs vLLM's plugin for Ascend, which {spec.python} lacks; `pip install vllm-ascend` in an "
            "environment of its own (Python 3.10 to 3.12; CANN must be on the machine) brings it, with the vLLM and "
            "torch-npu that belong to it: name that interpreter under python:"
        )
    elif spec.device == "npu" and has.get("ascend") and (chips := here.of("npu")):
        wanted = generation(chips[0].name)
        if wanted is not None and wanted != has["ascend"]:
            yield (
                f"the vllm-ascend of {spec.python} is built for {has['ascend']}, and {chips[0].name} is {wanted}; take the "
                "interpreter of the project's image for it under python:"
            )


def _probe(path: str) -> dict[str, JSON] | None:
    try:
        done = subprocess.run((path, "-c", PROGRAM), capture_output=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told(done.stdout)


def _devices(spec: WorkerSpec, here: Machine) -> Iterator[str]:
    if spec.device == "cpu":
        return
    if spec.device not in NAMES:
        yield f"there is no device {spec.device!r}; devices are cuda, npu, cpu"
        return
    name, tool = NAMES[spec.device], TOOLS[spec.device]
    have, want = here.of(spec.device), spec.workers * width(spec.options)
    ill = [f"{device.index}" for device in here.all_of(spec.device) if not device.healthy]
    if spec.device in here.doubts:
        yield here.doubts[spec.device]
    if ill and len(have) < want:
        yield f"{tool} says of {name} {', '.join(ill)} that it is not OK: it is left out; see to it, or lower workers:"
    if not have:
        yield f"device {spec.device}, but {_unseen(spec.device, tool)}; `device: cpu` runs it on the processor"
    elif len(have) < want:
        yield (
            f"{spec.workers} workers of {width(spec.options)} {name}s each need {want}, and {len(have)} are here; "
            "lower workers: or tensor_parallel_size"
        )
    elif width(spec.options) > 1 and any(device.uuid.startswith("MIG-") for device in have):
        yield "a part of a GPU (MIG) works alone, CUDA shows a process one of them; leave out tensor_parallel_size"


def _unseen(device: str, tool: str) -> str:
    """Say why no device is there: by what its tool complains of, or the variable that hides all."""
    program = tool.split(maxsplit=1)[0]
    if shutil.which(program) is None:
        inside = (
            "; a container is given it by NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            if device == "cuda"
            else ""
        )
        return f"{tool} shows no {NAMES[device]} here: there is no {program}{inside}"
    said = complaint(*tool.split())
    if said is not None:
        return f"{tool} shows no {NAMES[device]} here; it says: {said}"
    value = os.environ.get(VARIABLES[device])
    hidden = f" that {VARIABLES[device]}={value} leaves to this process" if value is not None else ""
    return f"{tool} shows no {NAMES[device]} here{hidden}"


def _model(endpoint: Endpoint, spec: WorkerSpec) -> Iterator[str]:
    """Check that a model on disk is whole enough to load; a name on a hub is for vLLM to find."""
    model = endpoint.model
    folder = Path(model).expanduser()
    is_path = model.startswith((".", "/", "~")) or folder.exists() or model.count("/") > 1
    if not is_path:
        return
    if not folder.exists():
        yield f"there is no model at {model}; paths are from the job file, and a hub's names look like owner/model"
        return
    config = folder / "config.json"
    if folder.is_dir() and not config.is_file():
        yield f"the folder {model} holds no model: it has no config.json; give the folder that save_pretrained wrote"
    elif config.is_file():
        yield from _context(endpoint, spec, config)


def _context(endpoint: Endpoint, spec: WorkerSpec, path: Path) -> Iterator[str]:
    try:
        config = loads(path.read_bytes())
    except (OSError, ValueError):
        yield f"{path} cannot be read as JSON; fetch the model anew"
        return
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    longest = next((text[key] for key in CONTEXT_KEYS if isinstance(text.get(key), int)), None)
    if longest is None or text.get("rope_scaling") or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1":
        return
    length = spec.options.get("max_model_len")
    window = None if endpoint.context_window == length else endpoint.context_window
    for name, wanted in (("max_model_len", length), ("context_window", window)):
        if isinstance(wanted, int) and wanted > longest:
            yield f"{name} {wanted:,} is longer than the model's {longest:,} positions; set it to {longest} or less"
