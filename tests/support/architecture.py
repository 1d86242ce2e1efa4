"""Draw docs/images/architecture.svg and write the import table of docs/architecture.md, both from what the code imports.

    python -m tests.support.architecture

A test holds that both are current.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise

from tests.support.imports import FREE, MODULES, NAMES, PACKAGES, TABLE, ours
from tests.support.paths import ROOT

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
MARKS = "<!-- table of imports -->\n", "<!-- end of the table -->"

Graph = Mapping[str, set[str]]

WIDTH, BEND, GAP_X, HEIGHT, GAP_Y, MARGIN, HEAD = 104, 8, 22, 26, 28, 24, 26
COLOURS = {
    "flows": ("#e8eefc", "#3459b1"),
    "engines": ("#fdeee0", "#b3610f"),
    "warehouse": ("#e5f4ea", "#23784a"),
    "router": ("#f3e9f8", "#7b3f9c"),
}
"""A package's ground and its lines."""


def parts_of(package: str) -> Graph:
    """The subpackages and modules of a package, each with those of the same package that it imports.

    What all of a package may import (`FREE`), and the package's own `__init__`, are left out.
    """
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        name = part(str(path.relative_to(ROOT).with_suffix("")))
        if (
            name.startswith(f"{package}/")
            and name not in FREE.get(package, ())
            and name != f"{package}/__init__"
        ):
            graph.setdefault(name, set())
            graph[name] |= {
                part(str(NAMES[module].relative_to(ROOT).with_suffix(""))) for module in ours(path)
            }
    return {name: (below & graph.keys()) - {name} for name, below in graph.items()}


def part(name: str) -> str:
    """The first two steps of a module's path: its subpackage, or the module itself where it lies in the package."""
    return "/".join(name.split("/")[:2])


def reduced(graph: Graph) -> Graph:
    """Leave out each import that another way of imports implies."""
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        reach[name] = set(graph[name]).union(*(reach[below] for below in graph[name]))
    return {name: below - set().union(*(reach[other] for other in below)) for name, below in graph.items()}


@dataclass(frozen=True)
class Layout:
    """Where a package's parts stand: rows of parts and of the bends of lines that pass a row, and each line's way."""

    rows: list[list[str]]
    """Whoever imports stands above what is imported."""
    ways: list[list[str]]

    @property
    def width(self) -> float:
        return max(sum(width_of(name) for name in row) + (len(row) - 1) * GAP_X for row in self.rows)


def width_of(name: str) -> float:
    """A part's box; a bend takes little room."""
    return BEND if "|" in name else WIDTH


def laid_out(graph: Graph) -> Layout:
    """Parts in rows by their longest way down, each row ordered by where stands what it imports."""
    depth: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        depth[name] = 1 + max((depth[below] for below in graph[name]), default=-1)
    ways = [
        [name, *(f"{name}|{below}|{level}" for level in range(depth[name] - 1, depth[below], -1)), below]
        for name in sorted(graph)
        for below in sorted(graph[name])
    ]
    below_of: dict[str, list[str]] = defaultdict(list)
    for way in ways:
        for upper, lower in pairwise(way):
            below_of[upper].append(lower)
            depth.setdefault(upper, depth[way[0]] - way.index(upper))
    rows: dict[int, list[str]] = defaultdict(list)
    for name in sorted(depth):
        rows[depth[name]].append(name)
    place: dict[str, float] = {}
    for level in sorted(rows):
        rows[level].sort(key=lambda name: (_middle([place[below] for below in below_of[name]]), name))
        place |= {name: n - (len(rows[level]) - 1) / 2 for n, name in enumerate(rows[level])}
    return Layout([rows[level] for level in sorted(rows, reverse=True)], ways)


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else 0.0


def band(package: str, left: float, top: float, width: float) -> tuple[list[str], float]:
    """One package as SVG: a ground, a box per part, a line per import; and the height that it takes."""
    layout, (ground, line) = laid_out(reduced(parts_of(package))), COLOURS[package]
    places: dict[str, tuple[float, float]] = {}
    for row, names in enumerate(layout.rows):
        x = left + (width - sum(map(width_of, names)) - (len(names) - 1) * GAP_X) / 2
        for name in names:
            places[name] = (x + width_of(name) / 2, top + HEAD + 8 + row * (HEIGHT + GAP_Y))
            x += width_of(name) + GAP_X
    height = HEAD + 8 + len(layout.rows) * (HEIGHT + GAP_Y) - GAP_Y + 14
    svg = [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height}" rx="8" fill="{ground}"/>',
        f'<text x="{left + 12:.0f}" y="{top + 20:.0f}" class="package" fill="{line}">{package}</text>',
    ]
    svg += [f'<path d="{_curve([places[name] for name in way])}" stroke="{line}"/>' for way in layout.ways]
    for name, (x, y) in sorted(places.items()):
        if "|" not in name:
            box = f'x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}"'
            svg += [
                f'<rect {box} rx="4" fill="#fff" stroke="{line}"/>',
                f'<text x="{x:.0f}" y="{y + 17:.0f}" class="part">{name.partition("/")[2]}</text>',
            ]
    return svg, height


def _curve(points: list[tuple[float, float]]) -> str:
    """From the foot of the first box to the head of the last, straight down past the rows between."""
    bend = GAP_Y * 0.6
    steps = [f"M{points[0][0]:.0f} {points[0][1] + HEIGHT:.0f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        foot = y + HEIGHT
        steps.append(f"C{x:.0f} {foot + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}")
        if to_y != points[-1][1]:
            steps.append(f"V{to_y + HEIGHT:.0f}")
    return " ".join(steps)


def picture() -> str:
    """The whole picture: flows on top, engines beside warehouse, router below."""
    wide = {package: _width(package) for package in PACKAGES}
    width = max(wide["flows"], wide["router"], wide["engines"] + wide["warehouse"] + MARGIN)
    middle = width - wide["warehouse"] - MARGIN
    svg, top = band("flows", MARGIN, MARGIN, width)
    second = MARGIN + top + 2 * MARGIN
    engines, engines_height = band("engines", MARGIN, second, middle)
    store, store_height = band("warehouse", MARGIN + middle + MARGIN, second, wide["warehouse"])
    third = second + max(engines_height, store_height) + 2 * MARGIN
    router, router_height = band("router", MARGIN, third, width)
    right = MARGIN + middle + MARGIN + wide["warehouse"] / 2
    arrows = [
        _arrow(MARGIN + middle / 2, MARGIN + top, second),
        _arrow(right, MARGIN + top, second),
        _arrow(MARGIN + middle / 2, second + engines_height, third),
        _arrow(right, second + store_height, third),
    ]
    total = f"{width + 2 * MARGIN:.0f} {third + router_height + MARGIN:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total}" role="img" aria-labelledby="name">',
            '<title id="name">What imports what: flows over engines and warehouse, all over router</title>',
            "<style>text{font-family:sans-serif}.package{font-size:15px;font-weight:bold}",
            ".part{font-size:12px;text-anchor:middle;fill:#222}path{fill:none;stroke-width:1.2}",
            ".arrow{fill:#888}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *svg, *engines, *store, *router, *arrows,
            "</svg>",
            "",
        ]
    )  # fmt: skip


def _width(package: str) -> float:
    return laid_out(reduced(parts_of(package))).width + 2 * MARGIN


def _arrow(x: float, top: float, bottom: float) -> str:
    tip = bottom - 4
    return (
        f'<polygon class="arrow" points="{x - 3:.0f},{top + 4:.0f} {x + 3:.0f},{top + 4:.0f} {x + 3:.0f},{tip - 12:.0f} '
        f'{x + 10:.0f},{tip - 12:.0f} {x:.0f},{tip:.0f} {x - 10:.0f},{tip - 12:.0f} {x - 3:.0f},{tip - 12:.0f}"/>'
    )


def table() -> str:
    """The import table in Markdown."""
    lines = ["| | may import, of ours |", "| --- | --- |"]
    free = {name for names in FREE.values() for name in names}
    for name, allowed in TABLE.items():
        if name not in free:
            below = ", ".join(f"`{other}`" for other in dict.fromkeys(allowed))
            lines.append(f"| `{name}` | {below or 'nothing'} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with today's table between its marks."""
    start, end = MARKS
    return re.sub(
        f"{re.escape(start)}.*{re.escape(end)}", lambda _: start + table() + end, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
