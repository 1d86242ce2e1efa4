#!/bin/sh
# litellm: where nobody listens at an address, the exception carries status_code 500, as if a server had answered. Guess: a
# status is what a server said. Whoever retries or books by it takes a refused connection for a server's error; only the
# chain of causes (httpx.ConnectError) tells them apart. Ours reads the chain first (engines/realtime/litellm.py: HOW_FAR).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "litellm==1.106.2"
LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_OFFLINE_MODE=true "$place/venv/bin/python" - <<'PY'
import socket

import litellm

litellm.suppress_debug_info = True
with socket.socket() as taken:  # a port that is free: bound, and never listened at
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for model, base in (("anthropic/m", ""), ("mistral/m", "/v1")):
        try:
            litellm.completion(
                model=model, api_base=f"http://127.0.0.1:{port}{base}", api_key="k", num_retries=0, max_retries=0,
                messages=[{"role": "user", "content": "hi"}],
            )
        except Exception as error:
            assert error.status_code == 500, (model, error.status_code)
            links, link = [], error
            while link is not None:
                links.append(type(link).__name__)
                link = link.__cause__ or link.__context__
            assert any("Connect" in name for name in links[1:]), links
            print(model, "as found:", type(error).__name__, "500, behind it", links[-1])
PY
