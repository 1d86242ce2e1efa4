#!/bin/sh
# instructor 1.17: the lines of its batches say `strict: true` and leave properties with a default out of `required`; OpenAI's
# strict mode wants every property required, so that each such line fails, a day later. Guess: the batch helper writes the same
# strict schema as the same library's (or openai's) real-time call, which requires all. Maps become closed, empty objects, and
# of an answer in a fence the results keep "Unknown error". Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "instructor==1.17.0" "openai==3.3.0"
cd "$place"
"$place/venv/bin/python" - <<'PY'
import json

from instructor.batch import BatchProcessor
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel


class Ticket(BaseModel):
    kind: str
    urgent: bool = False
    counts: dict[str, int] = {}


processor = BatchProcessor("openai/gpt-4o-mini", Ticket)
processor.create_batch_from_messages([[{"role": "user", "content": "my invoice"}]], file_path="batch.jsonl")
with open("batch.jsonl") as lines:
    sent = json.loads(lines.readline())["body"]["response_format"]["json_schema"]
assert sent["strict"] is True
assert sent["schema"]["required"] == ["kind"], sent
assert sent["schema"]["properties"]["counts"]["additionalProperties"] is False, sent
assert to_strict_json_schema(Ticket)["required"] == ["kind", "urgent", "counts"]
print("as found: strict, required:", sent["schema"]["required"], "of", list(sent["schema"]["properties"]))


def line(text):
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    reply = {"status_code": 200, "body": {"choices": [choice]}}
    return json.dumps({"custom_id": "request-0", "response": reply, "error": None})


(plain,) = processor.parse_results(line('{"kind": "billing"}'))
(fenced,) = processor.parse_results(line('```json\n{"kind": "billing"}\n```'))
assert plain.success and not fenced.success and fenced.error_message == "Unknown error", (plain, fenced)
print("as found: an answer in a fence is", fenced.error_type, repr(fenced.error_message))
PY
