#!/bin/sh
# genai-prices 0.2.3: what replies used can be added up (`extract_usage(a) + extract_usage(b)`, made for the chunks of a stream),
# and the sum priced, as one prompt of that length: where a model costs more beyond 200,000 or 272,000 tokens, a thousand
# requests of 2,000 tokens each are told at the long prompt's price, 1.76 times what they cost. Guess: the price of a sum is
# the sum of the prices; or a sum, which does not know its parts, has none. Fifty requests are priced right, and a night's
# are not; a day's tokens out of a dashboard fare alike. Ours prices each attempt, and adds up amounts (router/pricing/prices.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile genai-prices==0.2.3
cd "$place"
"$place/venv/bin/python" - <<'PY'
from genai_prices import extract_usage

CHAT = {"prompt_tokens": 2_000, "completion_tokens": 300}
CLAUDE = {"input_tokens": 2_000, "output_tokens": 300}
GEMINI = {"promptTokenCount": 2_000, "candidatesTokenCount": 300}
REPLIES = {
    "gpt-5.4": ("openai", "chat", {"model": "gpt-5.4", "usage": CHAT}),
    "gpt-5": ("openai", "chat", {"model": "gpt-5", "usage": CHAT}),
    "claude-sonnet-4-5": ("anthropic", "default", {"model": "claude-sonnet-4-5", "usage": CLAUDE}),
    "gemini-3.1-pro-preview": ("google", "default", {"modelVersion": "gemini-3.1-pro-preview", "usageMetadata": GEMINI}),
}


def times(model, requests):
    """What the sum of so many replies costs, as a multiple of what they cost one by one."""
    provider, flavor, reply = REPLIES[model]
    replies = [extract_usage(reply, provider_id=provider, api_flavor=flavor) for _ in range(requests)]
    one_by_one = sum(reply.calc_price().total_price for reply in replies)
    total = replies[0]
    for reply in replies[1:]:
        total += reply
    assert total.usage.input_tokens == 2_000 * requests, total
    return float(total.calc_price().total_price / one_by_one)


assert all(times(model, 50) == 1 for model in REPLIES)
found = {model: round(times(model, 1_000), 2) for model in REPLIES}
assert found.pop("gpt-5") == 1, "gpt-5 has one price whatever the length"
assert found == {"gpt-5.4": 1.76, "claude-sonnet-4-5": 1.79, "gemini-3.1-pro-preview": 1.76}, found
print("as found, a thousand requests cost so many times their price:", found)
PY
