"""A program: llama.cpp's own server with a model that lies there in Hugging Face's format.

    python tests/support/llama_cpp.py MODEL_FOLDER TARGET.gguf PORT SLOTS CONTEXT

The model is one of the tests': Qwen3's shape, its weights BF16, a token for each byte and no merges.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Parts of tensors' names: Hugging Face's to llama.cpp's."""
NO_MERGE = "\u0100 \u0100"
"""llama.cpp takes no vocabulary without merges: one of two bytes 0, which no text has."""


def convert(model: Path, target: Path) -> None:
    """Write the model as llama.cpp reads it."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template((model / "chat_template.jinja").read_text())
    _add_vocabulary(writer, json.loads((model / "tokenizer.json").read_text()))
    for name, values in _tensors((model / "model.safetensors").read_bytes()):
        writer.add_tensor(_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **special}
    names = sorted(ids, key=ids.__getitem__)
    kinds = [gguf.TokenType.CONTROL if name in special else gguf.TokenType.NORMAL for name in names]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([NO_MERGE])
    writer.add_add_bos_token(False)


def _tensors(data: bytes) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Names and values of a safetensors file of BF16, which is the upper half of a float."""
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = (begin + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(data[first:last], np.uint16).astype(np.uint32) << 16
            yield name, bits.view(np.float32).reshape(entry["shape"])


def serve(model: Path, port: int, slots: int, context: int) -> None:
    """Answer until a signal comes."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = context
    params.cpuparams.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    signal.pause()
    del server


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
    serve(Path(sys.argv[2]), *map(int, sys.argv[3:]))
