#!/bin/sh
# transformers 5.24: a call with `truncation=True, max_length=16` (as a training makes it) stays in the tokenizer, and
# save_pretrained writes it, and the padding, into tokenizer.json. Guess: what is given to a call is of that call; its own next
# call, and what transformers loads, know nothing of it. But tokenizers 0.23, which reads the same file, cuts every text to 16
# tokens and fills it up to 16: each prompt counts 16, whatever its length, without a word. Who counts a batch's tokens with it
# plans a price by it, and lets through what is too long. Ours takes both off (engines/tokenizers.py: _from_file).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "transformers==5.24.0" "tokenizers==0.23.3"
cd "$place"
TRANSFORMERS_VERBOSITY=error "$place/venv/bin/python" - <<'PY'
import transformers
from tokenizers import Tokenizer, __version__, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<pad>": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
own = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="[UNK]")
texts = ["word", "word " * 3000]


def by_transformers(tokenizer):
    return [len(tokenizer(text)["input_ids"]) for text in texts]


def by_tokenizers(folder):
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


own.save_pretrained("before")
assert by_tokenizers("before") == [1, 3000]
own(texts, truncation=True, max_length=16, padding="max_length")
own.save_pretrained("trained")
assert by_transformers(own) == [1, 3000]
assert by_transformers(AutoTokenizer.from_pretrained("trained")) == [1, 3000]
found = by_tokenizers("trained")
assert found == [16, 16], found
print("as found: transformers", transformers.__version__, "counts 1 and 3,000 tokens before and after; tokenizers", __version__, "by the file that it saved", *found)
own.save_pretrained("called since")  # by_transformers called it without a limit
assert by_tokenizers("called since") == [1, 3000]
PY
