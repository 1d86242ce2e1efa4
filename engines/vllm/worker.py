"""The worker: vLLM in a process of its own, run by the interpreter that has it. Standard library and vLLM only.

Its parent speaks JSON lines on stdin and reads JSON lines from what was stdout when it started (whatever vLLM
prints goes to stderr, the log):

    → {"model", "options", "parent", "cores", "device", "reasoners"}  the first line: what to load, and what to run on
    ← {"op": "ready", "vllm", "max_model_len", "max_num_seqs", "paced"}
    → {"op": "ask", "id", "messages", "max_tokens", …}               a request, a body on OpenAI's wire; any number
    → {"op": "go"}                                                   the wave is complete: do not wait for more
    ← {"op": "answer", "id", "text", …} or {"op": "refused", "id", "kind", "message"}, one each, as they finish
    ← {"op": "pace", "worked", "steps", …}                           each second of work: its tokens and requests so far
    ← {"op": "fault", "kind", "message"}                             the engine is lost; the worker ends
    → {"op": "stop"}

It never outlives its parent, nor do vLLM's own processes outlive it: see `tie_to`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # not in the processes that vLLM spawns, which have our path already
    sys.path[:1] = []  # this script's folder, put there by Python: our neighbours (http, …) are not vLLM's

import ctypes
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait
from queue import Empty, SimpleQueue
from typing import Any

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal this process gets when the thread that made it ends."""
TAKE_AT_MOST = 256  # requests read between two steps of the engine: reading must not keep the GPU waiting
OVERFLOW = ("longer than the maximum", "maximum context length", "max_model_len", "the worker's context is")
ENVELOPE = frozenset({"op", "id", "model", "messages", "tools", "tool_choice", "parallel_tool_calls"})
"""What of a request is no sampling parameter."""
PACE_SECONDS = 1.0
DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's generation_config may set, for requests that do not say."""


def die_with_parent(sig: signal.Signals, parent: int) -> None:
    """Linux only; elsewhere the end of stdin tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), sig)


def tie_to(parent: int) -> None:
    """Let this process die with `parent`; its process group (vLLM's engine and tensor-parallel processes) with it.

    A forked guard waits for nothing but our death, kill -9 included, and then kills the group.
    """
    die_with_parent(signal.SIGKILL, parent)
    if os.getpid() != os.getpgrp():
        return  # run by hand in somebody's group: not ours to kill
    me = os.getpid()
    if os.fork() == 0:
        for fd in (0, 1):
            os.close(fd)
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(me, signal.SIGKILL))
        die_with_parent(signal.SIGTERM, me)
        while True:
            signal.pause()


class ParentPipe:
    """The way back to the parent, kept clear of whatever vLLM prints."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, *messages: dict[str, Any]) -> None:
        data = "".join(json.dumps(message) + "\n" for message in messages).encode()
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]


def listen(heard: SimpleQueue[bytes]) -> None:
    """Reads stdin on a thread, so that the parent never waits; at its end nobody is there to answer to."""
    for line in sys.stdin.buffer:
        heard.put(line)
    os.killpg(os.getpgrp(), signal.SIGKILL) if os.getpid() == os.getpgrp() else os._exit(1)


def watch(line: ParentPipe, closing: threading.Event) -> None:
    """Ends the worker when a process that its vLLM started ends by itself: vLLM waits for a dead engine for ever."""
    started = multiprocessing.active_children()
    if not started:
        return

    def look() -> None:
        ended = wait([process.sentinel for process in started])
        if not closing.is_set():
            names = ", ".join(process.name for process in started if process.sentinel in ended)
            line.say({"op": "fault", "kind": "engine", "message": f"vLLM's process ended: {names}"})
            os._exit(1)

    threading.Thread(target=look, daemon=True).start()


class Reasoning:
    """Splits an answer at the model's own mark for the end of its reasoning, where its vocabulary has one."""

    def __init__(self, tokenizer: Any, name: str | None) -> None:
        from vllm.reasoning import ReasoningParserManager

        vocabulary = tokenizer.get_vocab()
        self._parser = None
        if name is not None and "</think>" not in vocabulary:  # marks of its own, which vLLM knows
            self._parser = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
        self._open, self._close = vocabulary.get("<think>"), vocabulary.get("</think>")
        self._tokenizer = tokenizer

    def split(self, prompt: list[int], answer: list[int], text: str) -> tuple[str, str | None, int]:
        """(what it says, its reasoning, tokens of that). Cut before the end mark: all of it is reasoning."""
        if self._parser is not None:
            said = self._parser.extract_content_ids(answer)
            end = len(answer) - len(said)
            return (self._decode(said), self._decode(answer[:end]), end) if end else (text, None, 0)
        if self._close is None:
            return text, None, 0
        if self._close in answer:
            end = answer.index(self._close) + 1
            thought = self._tokenizer.decode(answer[: end - 1], skip_special_tokens=True)
            answer_text = text.rpartition("</think>")[2] if "</think>" in text else self._decode(answer[end:])
            return answer_text.lstrip("\n"), thought.replace("<think>", "").strip("\n"), end
        if self._open is not None and (self._open in answer[:2] or self._opened(prompt)):
            return "", text.replace("<think>", "").strip("\n"), len(answer)
        return text, None, 0

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _opened(self, prompt: list[int]) -> bool:
        """Whether the chat template opened it: the mark stands at the prompt's end, not closed again."""
        tail = prompt[-8:]
        return self._open in tail and self._close not in tail


def reasoner_of(model: str, options: dict[str, Any], known: dict[str, str]) -> str | None:
    """Name vLLM's parser for a model that reasons: a schema is then enforced from the end of its reasoning on."""
    trusted = bool(options.get("trust_remote_code", False))
    try:
        from vllm.reasoning import ReasoningParserManager
        from vllm.tokenizers import get_tokenizer
        from vllm.transformers_utils.config import get_config

        name = known.get(get_config(model, trust_remote_code=trusted).model_type)
        if name is None or name not in ReasoningParserManager.list_registered():
            return None
        tokenizer = get_tokenizer(model, trust_remote_code=trusted)
    except Exception:  # noqa: BLE001 - whatever is wrong with the model, vLLM says it better
        return None
    template = str(options.get("chat_template") or tokenizer.chat_template)
    return name if "think" in template or "analysis" in template else None


class Worker:
    def __init__(self, line: ParentPipe, hello: dict[str, Any]) -> None:
        from vllm import LLM, EngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        self._params, self._structured = SamplingParams, StructuredOutputsParams
        self._final_only = RequestOutputKind.FINAL_ONLY
        options = dict(hello["options"])
        if not hasattr(EngineArgs, "language_model_only"):  # a vLLM from before there was this saving
            options.pop("language_model_only", None)
        reasoner = reasoner_of(hello["model"], options, hello.get("reasoners") or {})
        if reasoner is not None:
            options.setdefault("reasoning_parser", reasoner)
        self._own_template = "chat_template" in options
        self._llm = LLM(model=hello["model"], **options)
        self._engine = self._llm.llm_engine
        config = self._engine.vllm_config
        self._longest = config.model_config.max_model_len
        self._paced = hasattr(IncrementalDetokenizer, "num_output_tokens")
        limits = {"max_model_len": self._longest, "max_num_seqs": config.scheduler_config.max_num_seqs}
        self.ready = {"op": "ready", **limits, "paced": self._paced}
        self._tokenizer = self._llm.get_tokenizer()
        self._reasoning = Reasoning(self._tokenizer, options.get("reasoning_parser"))
        usual = self._llm.get_default_sampling_params()
        self._usual = {name: getattr(usual, name) for name in DEFAULTS}
        self._line = line
        self._under_way = self._engine.output_processor.request_states
        self._paced_at, self._worked, self._steps = 0.0, 0.0, 0
        self._done = Counter(input_tokens=0, cached_tokens=0, output_tokens=0)
        self._since: float | None = None  # the engine ended its last step then, and had more to do
        self._ids: dict[str, Any] = {}  # vLLM's name of a request → the parent's

    # --- asking ---

    def ask(self, message: dict[str, Any]) -> None:
        try:
            name = self._add(message)
        except Exception as error:  # noqa: BLE001 - whatever vLLM makes of one request must not touch the others
            text = str(error.args[0] if error.args else error).partition("\n")[0][:200]
            kind = "context_overflow" if any(mark in text for mark in OVERFLOW) else "bad_request"
            self._line.say({"op": "refused", "id": message["id"], "kind": kind, "message": text})
        else:
            # vLLM appends to the names it is given but reports outputs under ours; enqueue_chat makes its own
            self._ids[name] = message["id"]

    def _add(self, message: dict[str, Any]) -> str:
        given = {name: value for name, value in message.items() if name not in ENVELOPE}
        template = given.pop("chat_template_kwargs", None) or {}
        messages, tools = message["messages"], message.get("tools")
        params = self._sampling(given)
        if not self._own_template and not tools and all(_plain(entry) for entry in messages):
            ids = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False, **template
            )
            if len(ids) >= self._longest:
                raise ValueError(f"{len(ids):,} tokens; the worker's context is {self._longest:,}")
            name = f"t{message['id']}"
            self._engine.add_request(name, {"prompt_token_ids": ids}, params)
            return name
        (made,) = self._llm.enqueue_chat(
            [messages], params, use_tqdm=False, tools=tools, chat_template_kwargs=template or None
        )
        return str(made).partition("-")[0]

    def _sampling(self, given: dict[str, Any]) -> Any:
        """SamplingParams from OpenAI's names and vLLM's own. Raises ValueError: a name is unknown."""
        wanted = {**self._usual, **given.pop("extra_body", {}), **given}
        tops = wanted.pop("top_logprobs", None)
        if isinstance(wanted.get("logprobs"), bool):
            wanted["logprobs"] = (tops or 0) if wanted["logprobs"] else None
        form = wanted.pop("response_format", None) or {}
        if form.get("type") == "json_schema":
            wanted["structured_outputs"] = self._structured(json=form["json_schema"]["schema"])
        elif form.get("type") == "json_object":
            wanted["structured_outputs"] = self._structured(json_object=True)
        if "logit_bias" in wanted:
            wanted["logit_bias"] = {int(token): bias for token, bias in wanted["logit_bias"].items()}
        wanted["output_kind"] = self._final_only
        try:
            return self._params(**wanted)
        except TypeError as error:
            raise ValueError(f"vLLM does not take these sampling parameters: {error}") from error

    # --- answering ---

    def step(self) -> None:
        """One step of the engine; every request that it finishes is told at once."""
        begun = self._since or time.monotonic()
        outputs = [self._outcome_of(output) for output in self._engine.step() if output.finished]
        now = time.monotonic()
        self._worked, self._steps = self._worked + now - begun, self._steps + 1
        self._since = now if self.busy() else None
        if self._paced and (now - self._paced_at > PACE_SECONDS or self._since is None):
            self._paced_at = now
            outputs.append(self.pace())
        if outputs:
            self._line.say(*outputs)

    def pace(self) -> dict[str, Any]:
        """All tokens so far: answers tell of theirs when they are done, which is late; vLLM's own statistics observe
        each token, which slows a small model (vLLM 0.32)."""
        tokens, running = self._done.copy(), 0
        for state in self._under_way.values():
            if written := state.detokenizer.num_output_tokens():
                running += 1
                read = {"input_tokens": state.prompt_len, "cached_tokens": state.num_cached_tokens}
                tokens.update(read, output_tokens=written)
        counts = {"running": running, "waiting": len(self._under_way) - running}
        return {"op": "pace", "worked": self._worked, "steps": self._steps, **counts, **tokens}

    def busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def close(self) -> None:
        """Give devices and shared memory back; a parent that finds this slow kills us."""
        self._engine.engine_core.shutdown()

    def _outcome_of(self, done: Any) -> dict[str, Any]:
        answer = done.outputs[0]
        tokens = list(answer.token_ids)
        prompt = done.prompt_token_ids or []
        answer_text, thought, thought_tokens = self._reasoning.split(prompt, tokens, answer.text)
        outcome = {
            "op": "answer",
            "id": self._ids.pop(done.request_id.partition("-")[0]),
            "text": answer_text,
            "reasoning": thought,
            "finish_reason": answer.finish_reason,
            "input_tokens": len(prompt),
            "output_tokens": len(tokens),
            "cached_tokens": done.num_cached_tokens or 0,
            "reasoning_tokens": thought_tokens,
        }
        self._done.update({name: outcome[name] for name in self._done})
        if answer.logprobs:
            outcome["logprobs"] = list(map(_likely, tokens, answer.logprobs))
        return outcome


def _likely(token: int, among: dict[int, Any]) -> dict[str, Any]:
    """The token that was chosen and, best first, the others that were asked for, as on OpenAI's wire."""
    tops = sorted(among.items(), key=lambda candidate: candidate[1].rank or len(among))
    shown = {at: {"token": candidate.decoded_token, "logprob": candidate.logprob} for at, candidate in tops}
    chosen: dict[str, Any] = dict(shown[token])
    if len(shown) > 1:
        chosen["top_logprobs"] = list(shown.values())
    return chosen


def _plain(message: dict[str, Any]) -> bool:
    """Text alone, which a chat template takes as it is; vLLM prepares images and tool calls."""
    return isinstance(message.get("content"), str) and not message.get("tool_calls")


def waves(heard: SimpleQueue[bytes], worker: Worker) -> Iterator[list[dict[str, Any]]]:
    """What has come: while the engine is at work, whatever is there; otherwise a whole wave, waited for."""
    while True:
        lot: list[dict[str, Any]] = []
        patient = not worker.busy()
        while len(lot) < TAKE_AT_MOST or patient:
            try:
                message = json.loads(heard.get() if patient else heard.get_nowait())
            except Empty:
                break
            if message["op"] == "ask":
                lot.append(message)
            elif message["op"] == "stop":
                return
            else:
                patient = False
        yield lot


def runs_on(device: str | None) -> None:
    """Raise where this vLLM was built for another device than the job names: it would be silent, and slow."""
    from vllm.platforms import current_platform

    built = {"rocm": "cuda"}.get(current_platform.device_name, current_platform.device_name)
    if device is not None and built != device:
        raise ImportError(
            f"device: {device} is asked for, and this vLLM runs on {built or 'nothing that is here'}; "
            "name under python: an interpreter whose vLLM was built for it (make setup-vllm DEVICE=…)"
        )


def serve(line: ParentPipe, heard: SimpleQueue[bytes]) -> None:
    hello = json.loads(heard.get())
    tie_to(hello["parent"])
    if hello.get("cores"):
        os.sched_setaffinity(0, hello["cores"])
    import vllm

    runs_on(hello.get("device"))
    worker = Worker(line, hello)
    line.say({**worker.ready, "vllm": vllm.__version__})
    closing = threading.Event()
    watch(line, closing)
    for lot in waves(heard, worker):
        for message in lot:
            worker.ask(message)
        if worker.busy():
            worker.step()
    closing.set()
    worker.close()


def fault(error: BaseException) -> dict[str, str]:
    """An engine that is lost: out of memory asks for smaller waves, all else for a new worker."""
    text = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
    kind = "out_of_memory" if "outofmemory" in text.replace(" ", "").lower() else "engine"
    return {"op": "fault", "kind": kind, "message": text}


def main() -> None:
    line = ParentPipe()
    heard: SimpleQueue[bytes] = SimpleQueue()
    try:
        threading.Thread(target=listen, args=(heard,), daemon=True).start()
        serve(line, heard)
    except BaseException as error:  # noqa: BLE001 - told to the parent, whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        line.say(fault(error))
        os._exit(1)
    os._exit(0)  # vLLM's own shutdown can hang; what it holds goes with the process


if __name__ == "__main__":
    main()
