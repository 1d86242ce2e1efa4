"""What a night says while it goes on: spend, rate, and a time left that batches do not make nonsense of."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from decimal import Decimal

import pytest
from rich.console import Console

from thirdshift.flows.console import QUIET, LongWork, ProgressCounts, RunConsole, money, span, spent
from thirdshift.flows.formats import counted


def tally(
    *, total: int, done: int, seconds: float, batched: int = 0, batched_done: int = 0, until: float = 0.0
) -> ProgressCounts:
    """`seconds` after its beginning; batches are expected `until` seconds from now."""
    return ProgressCounts(
        total, lambda: spent(Decimal("0.25"), 0, Decimal("0.125")), batched=batched, batched_until=time.time() + until,
        done=done, batched_done=batched_done, begun=time.monotonic() - seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("usd", "told"),
    [(0, "$0.00"), (25, "$25.00"), (0.35, "$0.35"), (0.0485, "$0.0485"), (1.234, "$1.2340"), (1234.567, "$1,234.57"),
     (0.00638, "$0.006380")],
)  # fmt: skip
def test_money_is_told_in_cents_where_they_say_it_all(usd: float, told: str) -> None:
    assert money(usd) == told


def test_one_thing_is_no_plural() -> None:
    assert [counted(count, "request") for count in (0, 1, 2000)] == [
        "0 requests",
        "1 request",
        "2,000 requests",
    ]


def test_the_time_left_of_what_is_sent_in_real_time_is_by_its_rate() -> None:
    assert tally(total=100, done=25, seconds=10).seconds_left() == pytest.approx(30, rel=0.05)
    assert tally(total=100, done=100, seconds=10).seconds_left() == 0


def test_a_rate_of_a_moment_or_of_nothing_tells_no_time() -> None:
    assert tally(total=100, done=25, seconds=0.5).seconds_left() is None
    assert tally(total=100, done=0, seconds=60).seconds_left() is None


def test_a_batch_is_waited_for_as_long_as_batches_take_whatever_the_rate_of_the_rest() -> None:
    mixed = tally(total=1100, done=100, seconds=10, batched=1000, until=3600)
    assert mixed.seconds_left() == pytest.approx(3600, rel=0.01)
    assert "1.0 h left" not in mixed.line()
    assert "60 min left" in mixed.line()
    slow = tally(total=2000, done=10, seconds=100, batched=1000, until=60)
    assert slow.seconds_left() == pytest.approx(9900, rel=0.05)


def test_of_an_overdue_batch_no_time_is_told() -> None:
    late = tally(total=10, done=0, seconds=9000, batched=10, until=-60)
    assert late.seconds_left() is None
    assert "left" not in late.line()


def test_what_is_not_sent_has_not_failed_and_is_not_among_what_was_answered() -> None:
    counts = tally(total=10, done=4, seconds=2)
    for _ in range(6):
        counts.count(failed=True, sent=False)
    assert (counts.sent, counts.failed, counts.seconds_left()) == (4, 0, 0)
    assert counts.line() == "$0.25 settled, up to $0.1250 more in flight, 2/s, 6 not sent"


def test_times_are_told_as_people_say_them() -> None:
    assert [span(each) for each in (40, 90, 720, 9000)] == ["40 s", "2 min", "12 min", "2.5 h"]


def test_a_log_gets_plain_lines_and_a_quiet_one_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    console = RunConsole(Console(file=printed, soft_wrap=True, highlight=False))
    with console.working("main", tally(total=10, done=10, seconds=5)) as bar:
        bar.show()
    assert printed.getvalue() == "main: 10 of 10; $0.25 settled, up to $0.1250 more in flight, 2/s\n"
    monkeypatch.setenv(QUIET, "1")
    console.say("a plan")
    console.say("a warning", "yellow")
    assert printed.getvalue().splitlines()[1:] == ["a warning"]


def test_a_log_hears_while_nothing_is_answered_ever_more_seldom() -> None:
    """Nobody listens, or a batch takes hours: it heard nothing until the first answer."""
    printed, seconds = io.StringIO(), 0
    console = RunConsole(Console(file=printed, soft_wrap=True, highlight=False))
    counts = tally(total=10, done=0, seconds=0)
    told: list[int] = []
    with console.working("main", counts, lambda: float(seconds)) as bar:
        for seconds in range(0, 2400, 10):
            lines = printed.getvalue().count("\n")
            bar.show()
            told += [seconds] if printed.getvalue().count("\n") > lines else []
            if seconds == 2000:
                counts.count(failed=False)
    assert told == [10, 30, 70, 150, 310, 630, 1230, 1830, 2010, 2020, 2040, 2080, 2160, 2320]


LOUD = """
import ctypes, os, sys
from thirdshift.flows.console import guarded

libc = ctypes.CDLL(None)

@guarded
def command():
    libc.puts(b"a banner, buffered by C")
    os.write(1, b"a banner, written at once\\n")
    print("the answer")
    os.system("echo a child")

command()
libc.puts(b"afterwards")
libc.fflush(None)
"""


def test_stdout_has_the_answer_alone_whatever_c_prints() -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=True)
    assert done.stdout == "the answer\nafterwards\n"
    assert sorted(done.stderr.splitlines()) == [
        "a banner, buffered by C",
        "a banner, written at once",
        "a child",
    ]


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    enough = LOUD.replace('print("the answer")', 'print("the answer\\n" * 100_000)')
    with subprocess.Popen(
        [sys.executable, "-c", enough], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said


def test_no_line_steers_the_terminal_or_turns_its_text_about() -> None:
    file = io.StringIO()
    RunConsole(Console(file=file, width=200)).say("a\x1b[31mb\u202ec\x07d\u2066e\ud800 \u0641\u200c\u0631")
    assert file.getvalue() == "a\\x1b[31mb\\u202ec\\x07d\\u2066e\\ud800 \u0641\u200c\u0631\n"


def test_long_work_says_now_and_then_how_far_it_is_and_short_work_nothing() -> None:
    now, said = [0.0], list[str]()
    work = LongWork(said.append, lambda: now[0])
    reading, counting = work.on("reading the input"), work.on("estimating tokens", 9_000_000)
    for second in range(8):
        now[0] = second / 2
        reading(second * 1_000)
    assert said == ["reading the input: 6,000 requests"]
    for second in range(4, 27):
        now[0] = float(second)
        counting(second * 100_000)
    assert said[1:] == [
        f"estimating tokens: {done:,} of 9,000,000 requests" for done in (1_300_000, 2_300_000)
    ]
