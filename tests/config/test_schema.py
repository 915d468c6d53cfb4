"""The schema as a whole: every key says what it means and is used, and no key without a test of its effect."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from tmrc.config.schema import Config, Rule

ROOT = Path(__file__).parents[2]
KEYS = [
    (section.name, field.name)
    for section in dataclasses.fields(Config)
    for field in dataclasses.fields(typing.get_type_hints(Config)[section.name])
]


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_a_meaning_a_reader_and_a_test(section: str, key: str) -> None:
    cls = typing.get_type_hints(Config)[section]
    rule = next(field.metadata["rule"] for field in dataclasses.fields(cls) if field.name == key)
    assert isinstance(rule, Rule) and len(rule.help) > 5
    sources = [file for name in ("tmrc", "launch") for file in (ROOT / name).rglob("*.py") if file.name != "schema.py"]
    assert any(re.search(rf"\.{key}\b|[\"']{key}[\"']", file.read_text()) for file in sources), "read by nothing"
    tests = [file for file in (ROOT / "tests").rglob("*.py") if file.parent.name != "config" or section == "HydraConf"]
    wanted = rf"\b{section}\.{key}\b|\b{key}=|[\"'*]--{key.replace('_', '-')}\b|[\"']{key}[\"']"
    assert any(re.search(wanted, file.read_text()) for file in tests), "no test mentions it"
