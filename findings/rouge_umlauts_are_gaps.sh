#!/bin/sh
# rouge-score 0.1.2 (behind Hugging Face's `evaluate`, and most summaries' scores) knows a to z and 0 to 9; all else is a gap between words. Guess: a
# text scores 1.0 against itself, and another word scores less. A Chinese or Russian answer scores 0.0 against itself, so that a
# batch in these languages has a quality of 0; "Größe" (size) and "Grüße" (greetings) are the same two words "gr" and "e", 1.0;
# so are -5 and 5, while 1,234.50 and 1234.50 have little in common. German and French scores are too high, and nothing is said.
# `RougeScorer(tokenizer=...)` takes one's own. sacrebleu 2.6 scores all of the first 100. Ours has no words' overlap: answers are
# compared whole, or as JSON (router/certification/comparisons.py). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile rouge-score==0.1.2 sacrebleu==2.6.0
cd "$place"
"$place/venv/bin/python" - <<'PY'
import sacrebleu
from rouge_score import rouge_scorer

scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"])


def score(answer, reference):
    found = scorer.score(reference, answer)
    return round(found["rouge1"].fmeasure, 2), round(found["rougeL"].fmeasure, 2)


english, chinese, russian = "the order was cancelled", "订单已取消，款项将退回", "заказ отменён, деньги вернутся"
assert score(english, english) == (1.0, 1.0)
for text in (english, chinese, russian):
    assert round(sacrebleu.sentence_chrf(text, [text]).score) == 100, text
own = {text: score(text, text) for text in (chinese, russian)}
others = {pair: score(*pair) for pair in (("Größe", "Grüße"), ("-5", "5"), ("Total: 1,234.50", "Total: 1234.50"))}
assert set(own.values()) == {(0.0, 0.0)}, f"a text is like itself now: {own}"
assert list(others.values())[:2] == [(1.0, 1.0)] * 2, f"other words are other words now: {others}"
assert list(others.values())[2][0] < 0.6, others
print("as found:", {**own, **others})
PY
