#!/bin/sh
# genai-prices 0.2.3 (pydantic-ai's prices): of what xAI's Grok says that it used it reads prompt_tokens and completion_tokens.
# xAI tells thinking beside the completion and bills it as output (32 + 9 + 94 = 135 of its own example), and so 94 of 103 output
# tokens cost nothing, and 6 cached ones cost as fresh. Guess: a price library that knows a provider reads what that provider
# writes, as it does for Gemini, whose thoughts are told beside the candidates too. litellm 1.110 counts all 103. Ours takes
# what the total has beyond its parts for output (engines/wires/usage.py: _with_reasoning).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile genai-prices==0.2.3 litellm==1.110.2
cd "$place"
LITELLM_LOCAL_MODEL_COST_MAP=True "$place/venv/bin/python" - <<'PY'
import json

import httpx
import litellm
from genai_prices import extract_usage

usage = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94},
}
choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}]
reply = {"id": "x", "object": "chat.completion", "created": 1, "model": "grok-4", "choices": choices, "usage": usage}

grok = extract_usage(reply, provider_id="x-ai", api_flavor="default")
counted, priced = grok.usage.output_tokens, grok.calc_price().output_price
assert (counted, grok.usage.cache_read_tokens or 0) == (9, 0), grok.usage
assert float(priced) == 9 * 15e-6, priced

thoughts = {"promptTokenCount": 32, "candidatesTokenCount": 9, "thoughtsTokenCount": 94, "totalTokenCount": 135}
gemini = extract_usage({"modelVersion": "gemini-2.5-pro", "usageMetadata": thoughts}, provider_id="google", api_flavor="default")
assert gemini.usage.output_tokens == 103, gemini.usage

body = json.dumps(reply).encode()
transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body, headers={"content-type": "application/json"}))
client = litellm.llms.custom_httpx.http_handler.HTTPHandler(client=httpx.Client(transport=transport))
message = [{"role": "user", "content": "Hi"}]
told = litellm.completion("xai/grok-4", message, api_key="none", client=client)
assert told.usage.completion_tokens == 103, told.usage
print(f"as found: Grok's {counted} output tokens of 103 for ${priced}; litellm counts {told.usage.completion_tokens}")
PY
