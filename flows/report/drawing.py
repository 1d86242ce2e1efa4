"""Draw the report's figures with matplotlib: into inline SVG whose colours the page decides, or into PNG.

An SVG is drawn in stand-in colours, each then replaced by a CSS variable, so that one drawing serves light and dark;
its text stays text, in the page's font. Sizes are in CSS pixels: a figure is as many units wide as it will be shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 760, 342
"""Pixels: the page's column on a wide screen and on a phone of 390."""
TEXT = 12
UNITS_PER_INCH = 72
"""Points to an inch in matplotlib's SVG."""
PNG_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class Inks:
    """Colours by what they are for."""

    ink: str
    quiet: str
    """Secondary text and lines that carry meaning: 4.5:1 on the ground."""
    rule: str
    """Grid lines, which carry none."""
    chosen: str
    series: tuple[str, ...]
    """Distinct also for those who see few colours (after Okabe and Ito, darkened to 4.5:1 on white)."""

    def of(self, number: int) -> str:
        """Return the colour of series `number`; colours repeat."""
        return self.series[number % len(self.series)]


VARIABLES = Inks("#000101", "#000102", "#000103", "#000104", tuple(f"#00011{n}" for n in range(6)))
"""Stand-ins; the page's CSS has a variable for each."""
PAPER = Inks(
    "#1d2126", "#5a626c", "#d9dde2", "#0063a6",
    ("#0063a6", "#b3460a", "#00705a", "#96437f", "#75620a", "#55585e"),
)  # fmt: skip
"""For pictures that stand on white."""
NAMES = {
    VARIABLES.ink: "ink",
    VARIABLES.quiet: "quiet",
    VARIABLES.rule: "rule",
    VARIABLES.chosen: "chosen",
    **{colour: f"s{number}" for number, colour in enumerate(VARIABLES.series)},
}

Draw = Callable[["Figure", Inks], None]
"""Draws on a figure of some width (`is_wide`); it sets the height itself (`tall`)."""

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "path.simplify": True,
    "text.usetex": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def svg(draw: Draw, name: str, width: int) -> str:
    """Return the drawing as an `<svg>` element without a name of its own; the same facts give the same text."""
    with _figure(draw, VARIABLES, width, salt=f"{name}{width}") as figure:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(buffer.getvalue(), f"{name}{width}")


def png(draw: Draw, width: int = WIDE) -> bytes:
    """Return the drawing on white as a PNG with two pixels for each CSS pixel."""
    with _figure(draw, PAPER, width, salt="png") as figure:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=UNITS_PER_INCH * PNG_SCALE, facecolor="white")
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with what it shows in words."""

    name: str
    title: str
    description: str
    """What a reader learns from it, for those who do not see it."""
    draw: Draw

    def svg(self, width: int) -> str:
        """Return the figure as an `<svg>` element `width` CSS pixels wide."""
        return svg(self.draw, self.name, width)

    def png(self, width: int = WIDE) -> bytes:
        """Return the figure as a PNG on white, `width` CSS pixels wide."""
        return png(self.draw, width)


@contextmanager
def _figure(draw: Draw, inks: Inks, width: int, salt: str) -> Iterator[Figure]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = {
        "text.color": inks.ink,
        "axes.labelcolor": inks.quiet,
        "axes.edgecolor": inks.rule,
        "xtick.color": inks.quiet,
        "ytick.color": inks.quiet,
        "grid.color": inks.rule,
    }
    settings: Any = {**SETTINGS, **colours, "svg.hashsalt": salt}
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc is for the user's own drawings
        mpl.rcParams.update(settings)
        figure = Figure(figsize=(width / UNITS_PER_INCH, 1), dpi=UNITS_PER_INCH)
        FigureCanvasAgg(figure)  # which can measure text before anything is saved
        draw(figure, inks)
        yield figure


def is_wide(figure: Figure) -> bool:
    """Return whether a figure is as wide as the page's column on a wide screen."""
    return bool(figure.get_figwidth() * UNITS_PER_INCH >= WIDE)


def tall(
    figure: Figure, height: float, *, left: float = 0, right: float = 0, top: float = 0, bottom: float = 0
) -> None:
    """Make a figure `height` CSS pixels tall, its axes so many pixels off each side."""
    width = figure.get_figwidth() * UNITS_PER_INCH
    figure.set_size_inches(width / UNITS_PER_INCH, height / UNITS_PER_INCH)
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)


def bare(axes: Axes) -> None:
    """Remove frame and ticks: everything is labelled where it is."""
    axes.set_axis_off()
    axes.margins(0)


def shortened(text: str, most: int) -> str:
    """Shorten a name from outside to `most` characters, keeping both ends: either may tell names apart."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(clean) > most:
        end = (most - 1) // 2
        clean = f"{clean[: most - 1 - end]}…{clean[len(clean) - end :]}"
    return literal(clean)


def literal(text: str) -> str:
    """Return `text` with escapes for what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")


@dataclass(frozen=True, slots=True)
class Label:
    """Words beside a point, in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


PLACES = ((9, 0, "left", "center"), (0, 9, "center", "bottom"), (-9, 0, "right", "center"), (0, -9, "center", "top"),
          (7, 7, "left", "bottom"), (-7, 7, "right", "bottom"), (7, -7, "left", "top"), (-7, -7, "right", "top"),
          (0, 24, "center", "bottom"), (0, -24, "center", "top"), (9, 20, "left", "bottom"), (-9, 20, "right", "bottom"),
          (9, -20, "left", "top"), (-9, -20, "right", "top"))  # fmt: skip
"""Offsets in pixels and alignments, the best first."""
BLOCKED = 1_000
"""A place that is taken by other words, or beyond the edge: worse than any number of points written over."""


def place(
    axes: Axes, labels: Sequence[Label], size: float, avoid: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each label at the first place beside its point that is free and within the figure; one that has none is left
    out, unless it is bold.

    `avoid`: further points that nothing should be written over, in data coordinates.
    """
    figure = axes.figure
    canvas: Any = figure.canvas  # Agg's, see `_figure`
    renderer = canvas.get_renderer()
    room = axes.bbox
    points = axes.transData.transform([(label.x, label.y) for label in labels] + list(avoid))
    taken: list[Any] = []
    for label in labels:
        best: tuple[int, Any, Any] | None = None
        for dx, dy, across, up in PLACES:
            text = axes.annotate(
                label.text, (label.x, label.y), (dx, dy), textcoords="offset points", ha=across, va=up,
                color=label.colour, fontsize=size, fontweight="bold" if label.bold else "normal",
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            inside = (
                room.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            )
            clashes = 0 if inside and not any(box.overlaps(other) for other in taken) else BLOCKED
            clashes += sum(box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1 for x, y in points)
            if best is None or clashes < best[0]:
                if best is not None:
                    best[1].remove()
                best = (clashes, text, box)
            else:
                text.remove()
            if not clashes:
                break
        if best is not None and (best[0] < BLOCKED or label.bold):
            taken.append(best[2])
        elif best is not None:
            best[1].remove()


_DROPPED = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>\*\{.*?</style>", re.DOTALL
)
_TAG = re.compile(r"<[^>]*>")
_FONT = re.compile(r"font: *(?:(bold|\d+) )?([\d.]+px)[^;\"]*")
_FAMILY = re.compile(r" *font-family:[^;\"]*;?")
_ID = re.compile(r' id="([^"]+)"')
_REFERRED = re.compile(r'(url\(#|href="#)([^")]+)')
_COLOUR = re.compile("|".join(NAMES))
_LONG_NUMBER = re.compile(r"(\d\.\d)\d+")
_OPENING = re.compile(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>')


def _inlined(text: str, name: str) -> str:
    """Make an SVG fit for a page with other drawings: no prolog, ids referred to made its own, colours as variables."""
    text = _DROPPED.sub("", text).strip()
    referred = {match[2] for match in _REFERRED.finditer(text)}

    def tag(match: re.Match[str]) -> str:
        element = _FONT.sub(lambda m: f"font-size:{m[2]}" + (";font-weight:600" if m[1] else ""), match[0])
        element = _LONG_NUMBER.sub(r"\1", _FAMILY.sub("", element))
        element = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", element)
        element = _REFERRED.sub(lambda m: f"{m[1]}{name}-{m[2]}", element)
        return _COLOUR.sub(lambda m: f"var(--{NAMES[m[0]]})", element)

    text = _TAG.sub(tag, text)  # what stands between tags are a user's words, and stays as it is
    text = _OPENING.sub(r'<svg \1 aria-hidden="true" focusable="false">', text, count=1)
    return re.sub(r"\s*\n\s*", " ", text.replace("<defs>\n </defs>", ""))
