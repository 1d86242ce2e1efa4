"""The questions of docs/sql.md: title to query, as readers copy them."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
QUESTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n\n```sql\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
WATERMARK = "timestamptz '2026-01-01'"
"""What stands in the query of what is new for the moment that its reader keeps."""
