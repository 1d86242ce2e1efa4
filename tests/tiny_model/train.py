"""Trains the tiny model of the tests on the demo's exercises, on one core, and writes it beside this file.

    nice -n 15 .venv-vllm/bin/python tests/tiny_model/train.py
    nice -n 15 .venv-vllm/bin/python tests/tiny_model/train.py --minutes 14 \
        --grow tests/tiny_model --to tests/larger_model

The second makes the larger model of `make demo-vllm`: the tiny one with a new layer after each of its own, trained on
as many large exercises as small ones.

Qwen3's shape with 0.4 million parameters over bytes: small enough for a repository, real enough that vLLM runs it
like any other. Sizes are drawn with a lean towards the small ones, so it gets the easy exercises right and the hard
ones wrong; what it gets right is printed at the end, per task and size.
"""

# ruff: noqa: T201 - a program that tells how far it is

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.support.paths import TESTS
from thirdshift.flows.cli.demo.exercises import TASKS, item

HERE = TESTS

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
POSITIONS = 2048
IGNORED = -100
"""The label torch's cross entropy leaves out."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, without merges, and four marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([END, SYSTEM, USER, ASSISTANT])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token=END,
        pad_token=END,
        chat_template=TEMPLATE,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def untrained(vocabulary: int, end: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            eos_token_id=end,
            pad_token_id=end,
            bos_token_id=None,
        )
    )


def grown(folder: Path) -> Qwen3ForCausalLM:
    """A trained model with a new layer after each of its own, which adds nothing until it is trained."""
    small = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = small.config.to_dict() | {
        "num_hidden_layers": 2 * small.config.num_hidden_layers,
        "layer_types": None,
    }
    large = Qwen3ForCausalLM(Qwen3Config(**config))
    large.model.embed_tokens.load_state_dict(small.model.embed_tokens.state_dict())
    large.model.norm.load_state_dict(small.model.norm.state_dict())
    for number, layer in enumerate(small.model.layers):
        large.model.layers[2 * number].load_state_dict(layer.state_dict())
        new = large.model.layers[2 * number + 1]
        torch.nn.init.zeros_(new.self_attn.o_proj.weight)
        torch.nn.init.zeros_(new.mlp.down_proj.weight)
    return large


class Exercises:
    """Batches of exercises as token ids and labels. `lean`: more small ones than large ones."""

    def __init__(self, words: PreTrainedTokenizerFast, seed: int, *, lean: bool) -> None:
        self._lean = lean
        ids = words.get_vocab()
        self._byte = {chr(n): ids[chr(n)] for n in range(33, 127)} | {" ": ids["Ġ"]}
        self._end, self._user, self._assistant = ids[END], ids[USER], ids[ASSISTANT]
        self._rng = random.Random(seed)

    def one(self) -> tuple[list[int], list[int]]:
        """Ids and labels of one; leaning, a size is the smaller of two draws: the small ones are learnt well."""
        rng = self._rng
        kind = rng.choice(list(TASKS))
        task = TASKS[kind]
        draws = 2 if self._lean else 1
        size = min(rng.randint(task.smallest, task.largest) for _ in range(draws))
        made = item(kind, size, rng)
        prompt = [self._user, *(self._byte[c] for c in made.prompt), self._end, self._assistant]
        answer = [*(self._byte[c] for c in made.reference), self._end]
        return prompt + answer, [IGNORED] * len(prompt) + answer

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self.one() for _ in range(count)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((count, width), self._end)
        labels = torch.full((count, width), IGNORED)
        for n, (row, wanted) in enumerate(rows):
            ids[n, : len(row)] = torch.tensor(row)
            labels[n, : len(row)] = torch.tensor(wanted)
        return ids, labels


def train(model: Qwen3ForCausalLM, exercises: Exercises, minutes: float) -> int:
    """AdamW over a one-cycle schedule paced by CPU time: a busy machine learns as much. Returns the steps taken."""
    peak, warm, steps = 3e-3, 0.05, 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    began, told = time.process_time(), 0.0
    while (done := (time.process_time() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = peak * min(done / warm, (1 - done) / (1 - warm)) + 1e-5
        ids, labels = exercises.batch(96)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if done - told > 0.05:
            told = done
            print(f"{done:4.0%} step {steps} loss {loss.item():.3f}", flush=True)
    return steps


@torch.no_grad()
def measure(model: Qwen3ForCausalLM, words: PreTrainedTokenizerFast, each: int = 20) -> None:
    """Prints the share of right answers per task and size, greedily decoded."""
    rng, right = random.Random(77), defaultdict(list)
    for kind, task in TASKS.items():
        for size in range(task.smallest, task.largest + 1):
            made = [item(kind, size, rng) for _ in range(each)]
            texts = [f"{USER}{one.prompt}{END}{ASSISTANT}" for one in made]
            for one, text in zip(made, texts, strict=True):
                ids = words(text, return_tensors="pt", add_special_tokens=False).input_ids
                said = model.generate(ids, max_new_tokens=28, do_sample=False)[0, ids.shape[1] :]
                right[kind].append(words.decode(said, skip_special_tokens=True) == one.reference)
            print(kind, size, f"{sum(right[kind][-each:]) / each:.0%}", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--minutes", type=float, default=8.0, help="of CPU time; 0: random weights")
    asked.add_argument("--to", type=Path, default=HERE)
    asked.add_argument("--grow", type=Path, help="a trained model to begin with")
    asked.add_argument("--seed", type=int, default=11)
    given = asked.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    words = tokenizer()
    model = grown(given.grow) if given.grow else untrained(len(words), words.eos_token_id)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    exercises = Exercises(words, given.seed, lean=not given.grow)
    print(train(model, exercises, given.minutes) if given.minutes else 0, "steps")
    model.to(torch.bfloat16).save_pretrained(given.to)
    words.save_pretrained(given.to)
    if given.minutes:
        measure(model.eval().float(), words)


if __name__ == "__main__":
    main()
