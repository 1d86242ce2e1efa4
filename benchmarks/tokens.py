# ruff: noqa: RUF001  (Chinese punctuation is meant)
"""How near, how fast: calibrated token estimates against counting everything.

    python benchmarks/tokens.py                     a generated mix: English, Chinese, code and JSON
    python benchmarks/tokens.py --rows 100000       the same, smaller
    python benchmarks/tokens.py FOLDER              Parquet files with `messages` or `prompt`

States and checks: the total within 1 %, half of the requests within 10 %, CPU time under 20 s on one core
per million requests of 300 tokens, less than 1 GiB. The estimate runs in a process of its own, so that its
memory is its own.
"""

from __future__ import annotations

import argparse
import inspect
import json
import pkgutil
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.engines.tokenizers import tiktoken_counter
from thirdshift.router.tokens import estimate

ROOT = Path(__file__).resolve().parent.parent

LIMITS = {"total_error": 0.01, "median_error": 0.10, "cpu_seconds": 20.0, "peak_gib": 1.0}
GROUP = 8192
WORDS = ("late", "order", "refund", "broken", "screen", "customer", "urgent", "thanks", "invoice", "box")

CHINESE = """客户反映昨天收到的包裹外包装破损，里面的玻璃杯碎了两个，希望能够尽快安排补发或者退款。
根据合同第七条的规定，乙方应当在收到货物之日起十五个工作日内完成验收，并向甲方出具书面意见。
今年第三季度公司营业收入同比增长百分之十二，主要得益于海外市场的扩张和新产品线的推出。
请将下面这段话翻译成英文，注意保持原文的语气，不要添加任何解释。
这家餐馆的菜味道不错，服务员也很热情，就是周末人太多，等了将近一个小时才有位子。
人工智能技术正在改变制造业的生产方式，从质量检测到设备维护，越来越多的环节实现了自动化。
他推开门，看见院子里的桂花已经开了，空气中弥漫着淡淡的香味，忽然想起小时候的事情。
系统在凌晨两点出现异常，数据库连接数达到上限，值班工程师重启服务之后恢复正常。
患者自述近一周来反复头痛，伴有恶心，既往有高血压病史，目前服用降压药物控制。
教育部门表示，将继续加大对农村地区学校的投入，改善办学条件，提高教师待遇。
您好，我想咨询一下贵公司的退货政策，如果商品已经拆封但没有使用，还可以退吗？
北京、上海、广州三地的平均气温比去年同期高出一点五度，专家提醒市民注意防暑降温。
算法的时间复杂度是平方级的，数据量超过十万条以后运行速度会明显变慢，建议改用哈希表。
春天来了，公园里到处都是放风筝的孩子，老人们坐在长椅上晒太阳，一派祥和的景象。
本次会议讨论了预算分配、人员调整和下半年的工作重点，与会代表就几个问题交换了意见。
股票市场今天小幅上涨，成交量有所放大，分析师认为短期内仍将保持震荡走势。
他说：“这件事情不能再拖了，必须在月底之前给客户一个明确的答复。”
唐代诗人李白的作品想象丰富，语言清新，对后世的文学创作产生了深远的影响。
如果发动机故障灯亮起，请立即靠边停车，关闭点火开关，并联系最近的维修中心。
新能源汽车的销量连续八个月保持增长，充电桩的建设速度也在不断加快。""".splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--estimate", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.estimate:
        return _estimate(asked.estimate, asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "requests.parquet"
        rows = _from_folder(asked.folder) if asked.folder else _generated(asked.rows, asked.seed)
        _write(path, rows)
        return _compare(path, asked.seed, generated=asked.folder is None)


def _compare(path: Path, seed: int, *, generated: bool) -> int:
    command = [sys.executable, __file__, "--estimate", str(path), "--seed", str(seed)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    estimated = np.load(path.with_suffix(".npy"))
    begun = time.process_time()
    exact = estimate.count_exactly(_batches(path), tiktoken_counter()).tokens
    counting = time.process_time() - begun
    total = float(estimated.sum() / exact.sum() - 1)
    median = float(np.median(np.abs(estimated - exact) / exact))
    result = {
        "benchmark": "tokens",
        "requests": len(exact),
        "mean_tokens": round(float(exact.mean()), 1),
        "total_error": round(total, 5),
        "median_error": round(median, 4),
        "stated_total_error": round(figures["total_error"], 5),
        "stated_median_error": round(figures["median_error"], 4),
        "cpu_seconds": round(figures["cpu_seconds"], 2),
        "wall_seconds": round(figures["wall_seconds"], 2),
        "peak_gib": round(figures["peak_gib"], 3),
        "times_faster_than_counting": round(counting / figures["cpu_seconds"], 1),
    }
    kept = abs(total) <= LIMITS["total_error"] and median <= LIMITS["median_error"]
    if generated:
        budget = LIMITS["cpu_seconds"] * max(len(exact) / 1e6, 0.2)
        kept = kept and figures["cpu_seconds"] <= budget and figures["peak_gib"] <= LIMITS["peak_gib"]
    for name, value in result.items():
        print(f"{name:28} {value}")
    print(json.dumps(result | {"ok": kept}))
    return 0 if kept else 1


def _estimate(path: Path, seed: int) -> int:
    rows = pq.ParquetFile(path).metadata.num_rows
    counter = tiktoken_counter()
    wall, cpu = time.perf_counter(), time.process_time()
    sample = min(estimate.SAMPLE, max(rows // 4, 200))
    rng = np.random.default_rng(seed)
    batches = _batches(path)
    column = estimate.estimate(batches, [counter], rows, rng, exact_below=0, sample=sample)[counter.name]
    figures = {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "total_error": column.total_error,
        "median_error": column.median_error,
    }
    np.save(path.with_suffix(".npy"), column.tokens)
    print(json.dumps(figures))
    return 0


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=["messages"]).combine_chunks().to_batches()


# --- input ----------------------------------------------------------------------------------------------


def _write(path: Path, rows: Iterator[str]) -> None:
    schema = pa.schema([("messages", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        held: list[str] = []
        for text in rows:
            held.append(text)
            if len(held) == GROUP:
                writer.write_batch(pa.record_batch([pa.array(held)], schema=schema))
                held = []
        if held:
            writer.write_batch(pa.record_batch([pa.array(held)], schema=schema))


def _messages(*contents: str) -> str:
    roles = ["user"] if len(contents) == 1 else ["system", "user"]
    pairs = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    return json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))


def _from_folder(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        if "messages" in table.schema.names:
            yield from table["messages"].to_pylist()
        else:
            yield from (_messages(prompt) for prompt in table["prompt"].to_pylist())


def _generated(rows: int, seed: int) -> Iterator[str]:
    """Requests of four kinds, a quarter each; lengths lognormal around 300 tokens; half with a system
    message.
    """
    rng = random.Random(seed)
    kinds = [_english(rng), _chinese(rng), _code(rng), _records(rng)]
    mean_tokens = [(pool, sum(map(len, pool)) / max(_counted(pool), 1)) for pool in kinds]
    system = ["You answer in one word.", "Classify the ticket below.\nAnswer in JSON.", "请用中文回答。"]
    for _ in range(rows):
        pool, letters_per_token = rng.choice(mean_tokens)
        wanted = min(rng.lognormvariate(5.45, 0.6), 6000) * letters_per_token
        parts: list[str] = []
        length = 0
        while length < wanted:
            parts.append(rng.choice(pool))
            length += len(parts[-1])
        text = "".join(parts)[: int(wanted) + 8]
        yield _messages(rng.choice(system), text) if rng.random() < 0.5 else _messages(text)


def _counted(pool: list[str]) -> int:
    return int(tiktoken_counter().count(pool).sum())


def _english(rng: random.Random) -> list[str]:
    """Sentences of the standard library's own documentation."""
    texts = [inspect.cleandoc(d) for d in _docs() if d and len(d) > 200]
    sentences = [
        s.strip() + ". " for t in texts for s in t.replace("\n", " ").split(". ") if 40 < len(s) < 400
    ]
    return rng.sample(sentences, min(len(sentences), 6000))


def _docs() -> Iterator[str | None]:
    from pydoc_data import topics

    yield from topics.topics.values()
    for module in _sources():
        yield from (part for part in module.split('"""')[1::2])


def _sources() -> Iterator[str]:
    library = Path(inspect.getfile(json)).parent.parent
    for name in sorted(m.name for m in pkgutil.iter_modules([str(library)])):
        path = library / f"{name}.py"
        if path.is_file():
            yield path.read_text("utf-8", errors="ignore")


def _code(rng: random.Random) -> list[str]:
    """Pieces of the standard library's source, a few lines each."""
    lines = [line for text in _sources() for line in text.split("\n") if '"""' not in line]
    starts = rng.sample(range(len(lines) - 12), 6000)
    return ["\n".join(lines[s : s + rng.randint(3, 12)]) + "\n" for s in starts]


def _chinese(rng: random.Random) -> list[str]:
    """The sentences above, recombined at their commas."""
    clauses = [c for s in CHINESE for c in s.rstrip("。？").split("，")]
    return ["，".join(rng.sample(clauses, rng.randint(1, 4))) + rng.choice("。。。？！") for _ in range(6000)]


def _records(rng: random.Random) -> list[str]:
    return [json.dumps(_record(rng), indent=rng.choice([None, None, 2])) + "\n" for _ in range(6000)]


def _record(rng: random.Random) -> dict[str, Any]:
    kinds: list[Any] = [
        str(uuid.UUID(int=rng.getrandbits(128))),
        rng.randint(0, 10 ** rng.randint(1, 9)),
        round(rng.lognormvariate(3, 2), rng.randint(0, 4)),
        f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:00:00Z",
        rng.choice([True, False, None]),
        " ".join(rng.choices(WORDS, k=6)),
        [rng.randint(0, 99) for _ in range(rng.randint(0, 6))],
    ]
    names = [
        "id",
        "amount",
        "createdAt",
        "customer_name",
        "status",
        "isActive",
        "items",
        "note",
        "sku",
        "score",
    ]
    return {name: rng.choice(kinds) for name in rng.sample(names, rng.randint(2, 7))}


if __name__ == "__main__":
    raise SystemExit(main())
