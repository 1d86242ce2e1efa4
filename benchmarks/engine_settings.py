"""What two settings of vLLM change: `performance_mode: throughput`, and `language_model_only` where no row has a picture.

    nice -n 15 .venv/bin/python benchmarks/engine_settings.py [--pairs 3] [--requests 600] [--setting NAME]

A pair is two starts of bare vLLM on this machine's processor, one with the setting and one without, in turns, with the
environment and the options of our workers. The first setting is tried on the tiny model of the tests, the second on a
model of 6 million parameters for text and 51 million for pictures, whose weights are drawn; prompts are text alone.
Told of each: what the engine resolved, the processor seconds that `LLM(...)` took, the memory of its processes once it
is up, and tokens per processor second. Ratios are with the setting over without, the median of the pairs.

Ends with one line of JSON; exit 1 where it is no longer so that throughput mode doubles two limits and brings less than
a twentieth here, or that a model without its part for pictures takes less memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
from local import ROOT, START, Theirs, request

from thirdshift.flows.cli.demo.exercises import items
from thirdshift.router.values import Endpoint, Price, PriceSchedule, WorkerSpec

GAIN = 0.05
"""Tokens per processor second that throughput mode must bring more to be worth setting."""
THROUGHPUT = "performance_mode", "throughput"
TEXT_ONLY = "language_model_only", True
VISION_LAYERS, FEW = 12, 60
"""Layers for pictures; requests of a model that has them."""

ENGINE = (
    START
    + """
began = time.process_time()
import vllm
imported = time.process_time()
llm = vllm.LLM(model=hello["model"], **hello["options"])
config = llm.llm_engine.vllm_config.scheduler_config
say(max_num_seqs=config.max_num_seqs, max_num_batched_tokens=config.max_num_batched_tokens,
    imported=imported - began)
render = llm.get_tokenizer().apply_chat_template
for line in sys.stdin:
    asked = json.loads(line)
    began = time.monotonic()
    prompts = [render(one, add_generation_prompt=True, tokenize=False) for one in asked["messages"]]
    params = vllm.SamplingParams(temperature=0, max_tokens=asked["max_tokens"], ignore_eos=True)
    told = llm.generate(prompts, params, use_tqdm=False)
    say(tokens=sum(len(one.prompt_token_ids) + len(one.outputs[0].token_ids) for one in told),
        seconds=time.monotonic() - began, cached=0)
"""
)
PICTURES = """
import json, sys
from pathlib import Path
from transformers import Idefics3Config, PreTrainedTokenizerFast
tiny, out, layers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny)
marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
tokenizer.add_special_tokens({"additional_special_tokens": marks})
tokenizer.save_pretrained(out)
words = len(tokenizer)
text = dict(model_type="llama", hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
            num_key_value_heads=2, head_dim=32, vocab_size=words, max_position_embeddings=2048, eos_token_id=256,
            bos_token_id=None, pad_token_id=256)
seen = dict(hidden_size=512, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=8, image_size=224,
            patch_size=14)
config = Idefics3Config(text_config=text, vision_config=seen, scale_factor=2, pad_token_id=256,
                        image_token_id=tokenizer.convert_tokens_to_ids("<image>")).to_dict()
config |= {"architectures": ["Idefics3ForConditionalGeneration"], "dtype": "bfloat16", "vocab_size": words}
sizes = {"size": {"longest_edge": 448}, "max_image_size": {"longest_edge": 224}}
mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
kinds = {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"}
for name, told in (("config", config), ("preprocessor_config", {**kinds, **sizes, **mean}),
                   ("processor_config", {"processor_class": "Idefics3Processor", "image_seq_len": 64})):
    (out / f"{name}.json").write_text(json.dumps(told))
"""


def with_pictures(python: str, folder: Path) -> str:
    """Write a small model that takes pictures, without weights, and return where it is."""
    tiny = str(ROOT / "tests/tiny_model")
    subprocess.run(
        (python, "-c", PICTURES, tiny, str(folder), str(VISION_LAYERS)), check=True, capture_output=True
    )
    return str(folder)


def measured(given: argparse.Namespace, model: str, options: dict[str, Any], seed: int) -> dict[str, float]:
    """Start vLLM once, have it answer, and return what it told and took."""
    free = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=Decimal(1))
    end = Endpoint("house", model, free, workers=WorkerSpec("cpu", 1, given.python, options))
    engine = Theirs(ENGINE, end, Path(given.folder))
    try:
        imported = engine.told.pop("imported")
        top = psutil.Process(engine.pid)
        every = (top, *top.children(recursive=True))
        memory = sum(process.memory_full_info().uss for process in every)
        starting = sum(sum(process.cpu_times()[:2]) for process in every) - imported
        some = [
            [
                request(n, item.prompt, given.max_tokens)
                for n, item in enumerate(items(given.requests, seed=at))
            ]
            for at in (seed, seed + 1)
        ]
        engine.run(some[0][:20])  # what is compiled or allocated once
        ran = engine.run(some[1])
    finally:
        engine.close()
    return engine.told | {
        "start_cpu_seconds": starting,
        "memory_mib": memory / (1 << 20),
        "tokens_per_cpu_second": ran.thrift,
        "tokens_per_second": ran.speed,
    }


def compared(
    given: argparse.Namespace, model: str, setting: tuple[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Return what a setting changes: medians without and with it, and of the pairs' ratios."""
    pairs = []
    for number in range(given.pairs):
        both = {}
        for on in (False, True) if number % 2 == 0 else (True, False):
            both[on] = measured(given, model, options | (dict([setting]) if on else {}), 1000 + 10 * number)
            told = ", ".join(f"{name} {value:,.1f}" for name, value in both[on].items())
            print(f"{setting[0]} {'set' if on else 'not set'}: {told}", file=sys.stderr)
        pairs.append(both)
    return {
        name: {
            "without": round(statistics.median(pair[False][name] for pair in pairs), 1),
            "with": round(statistics.median(pair[True][name] for pair in pairs), 1),
            "ratio": round(statistics.median(pair[True][name] / pair[False][name] for pair in pairs), 3),
        }
        for name in pairs[0][True]
    }


def still_so(
    performance_mode: dict[str, Any] | None = None, language_model_only: dict[str, Any] | None = None
) -> bool:
    """Whether what the docs say of the settings that were tried still holds."""
    held = True
    if performance_mode is not None:
        doubled = all(
            performance_mode[name]["ratio"] == 2 for name in ("max_num_seqs", "max_num_batched_tokens")
        )
        held = doubled and performance_mode["tokens_per_cpu_second"]["ratio"] < 1 + GAIN
    if language_model_only is not None:
        held = held and language_model_only["memory_mib"]["ratio"] < 1
    return held


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pairs", type=int, default=3)
    asked.add_argument("--requests", type=int, default=600)
    asked.add_argument("--max-tokens", type=int, default=32)
    asked.add_argument("--setting", choices=[THROUGHPUT[0], TEXT_ONLY[0]], help="one alone; both without")
    asked.add_argument("--python", default=str(ROOT / ".venv-vllm/bin/python"))
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        given.folder = name
        figures: dict[str, Any] = {}
        if given.setting in {None, THROUGHPUT[0]}:
            figures[THROUGHPUT[0]] = compared(given, str(ROOT / "tests/tiny_model"), THROUGHPUT, {})
        if given.setting in {None, TEXT_ONLY[0]}:
            given.requests = FEW
            model = with_pictures(given.python, Path(name) / "model")
            figures[TEXT_ONLY[0]] = compared(given, model, TEXT_ONLY, {"load_format": "dummy"})
    met = still_so(**figures)
    print(
        json.dumps(
            {"benchmark": "engine_settings", **figures, "load": round(os.getloadavg()[0], 1), "met": met}
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
