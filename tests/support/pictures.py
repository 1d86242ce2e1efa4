"""Pictures of what people see, for the docs: `SCREENSHOTS=docs/images make test-ui` makes them anew."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page

SMALL = 100_000
"""Bytes of a picture."""
MARGIN = 12
"""Pixels around a part of a page."""


def picture(shown: Page | Locator, name: str) -> None:
    """Keep what is shown as NAME.png, a small file, where the variable SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder is None:
        return
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = shown if isinstance(shown, Page) else shown.page
    page.wait_for_timeout(1500)
    if isinstance(shown, Page):
        page.screenshot(path=path)
    else:
        page.screenshot(path=path, clip=_around(shown), full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(48).save(path, optimize=True)
    assert path.stat().st_size <= SMALL


def _around(part: Locator) -> FloatRect:
    box = part.bounding_box()
    assert box is not None
    return {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
