"""The page on configuration says what the schema says."""

from __future__ import annotations

from pathlib import Path

from tmrc.config.document import page


def test_the_page_is_the_schemas() -> None:
    written = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert written == page(), "run: python -m tmrc.config.document > docs/configuration.md"
