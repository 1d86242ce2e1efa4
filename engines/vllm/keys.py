"""What of an environment a worker is not given: keys. Standard library only: on a cluster this travels to the nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|^DATABASE_URL$|_DSN$|^AWS_", re.IGNORECASE)
NEEDED = re.compile(r"^(?:HF_|HUGGING_FACE_|MODELSCOPE_|TOKENIZERS_|RAY_)")
"""What hubs are asked with that models come from, and Ray, where a vLLM runs its processes on it."""


def without_secrets(environ: Mapping[str, str], model: str) -> dict[str, str]:
    """Return an environment without keys: a worker runs a model's own code at times, and asks no provider.

    Tokens of the hubs that models come from stay; so do AWS's, for a model in a bucket.
    """
    bucket = model.startswith("s3://")
    return {
        name: value
        for name, value in environ.items()
        if NEEDED.search(name) or (bucket and name.startswith("AWS_")) or not SECRETS.search(name)
    }
