#!/bin/sh
# litellm 1.106's map of prices: for five models writing to the cache is cheaper than not using it (the price of reading stands
# there; for one, that of reading is missing), and for one reasoning costs less than half of other output. Guess: a cache write
# costs at least a fresh token, and reasoning what output costs, or more. Whoever reserves "the dearest input price" by the
# cache write reserves half. Ours takes the dearest of all (router/pricing/prices.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "litellm==1.106.2"
LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_OFFLINE_MODE=true "$place/venv/bin/python" - <<'PY'
from litellm import model_cost


def cheaper(one, other):
    """Models whose price `one` is under `other`."""
    pairs = {name: (entry.get(one), entry.get(other)) for name, entry in model_cost.items()}
    return sorted(name for name, (a, b) in pairs.items() if a and b and a < 0.9999 * b)


writes = cheaper("cache_creation_input_token_cost", "input_cost_per_token")
assert writes == [
    "azure/eu/gpt-4o", "azure/eu/gpt-4o-2024-11-20", "azure/us/gpt-4o", "azure/us/gpt-4o-2024-11-20", "ft:gpt-4o-2024-11-20",
], writes
assert "cache_read_input_token_cost" not in model_cost["ft:gpt-4o-2024-11-20"]
thinks = cheaper("output_cost_per_reasoning_token", "output_cost_per_token")
assert thinks == ["perplexity/sonar-deep-research"], thinks
print("as found: cache writes below the prompt's price:", *writes)
print("as found: reasoning below the output's price:", *thinks)
PY
