#!/bin/sh
# langchain-core 1.8: JsonOutputParser and PydanticOutputParser make a whole of an answer that ends in its middle (max_tokens, a
# lost connection), also where nothing is streamed: of {"kind": "invoice", "total": 1234.50} cut behind "12" comes a valid
# Invoice with a total of 12, of a text its beginning. Guess: `parse` raises OutputParserException for what is no JSON, as it does
# for an answer in words, and fills up only where `partial=True` asks for it. pydantic-core's from_json(allow_partial=True) does
# as it is told, and leaves out texts and words that are cut, but takes the 12 too. Ours takes nothing out of JSON that is cut
# (engines/core/validation.py: judged).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "langchain-core==1.8.3" "pydantic==2.14.4"
"$place/venv/bin/python" - <<'PY'
import json

from langchain_core import __version__
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from pydantic import BaseModel
from pydantic_core import from_json


class Invoice(BaseModel):
    total: float


whole = '{"kind": "invoice", "total": 1234.50}'
cut = whole[: whole.index("34.50")]
assert cut == '{"kind": "invoice", "total": 12'
try:
    raise SystemExit(f"json: {json.loads(cut)}")
except ValueError:
    pass
reply = AIMessage(cut, response_metadata={"finish_reason": "length"})
plain, typed = JsonOutputParser(), PydanticOutputParser(pydantic_object=Invoice)
found = plain.invoke(reply), plain.parse(cut), typed.invoke(reply), plain.parse('{"kind": "inv')
assert found == ({"kind": "invoice", "total": 12}, {"kind": "invoice", "total": 12}, Invoice(total=12), {"kind": "inv"}), found
try:
    raise SystemExit(f"words: {plain.parse('I cannot do that.')}")
except OutputParserException:
    pass
print("langchain-core", __version__, "as found:", cut, "->", *found[1:3])
partial = [from_json(text, allow_partial=True) for text in (cut, '{"kind": "inv', '{"paid": tr', '{"total": 1234.')]
assert partial == [{"kind": "invoice", "total": 12}, {}, {}, {}], partial
print("as found, pydantic-core:", *partial)
PY
