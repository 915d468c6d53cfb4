"""What `tmrc data` prints: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from tmrc.config.errors import DataError

if TYPE_CHECKING:
    from tmrc.data.inspection import Inspection
    from tmrc.data.prepare import Summary


def show_summary(summary: Summary, as_json: bool) -> None:
    """Print what `prepare` wrote, and the lines of configuration that use it."""
    for note in summary.notes:
        print(note, file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(summary)))
        return
    rate = summary.source_bytes / 1e6 / max(summary.seconds, 1e-3)
    print(
        f"{summary.documents:,} documents, {summary.tokens:,} tokens ({summary.dtype}) in {summary.shards:,} "
        f"shard{'s' * (summary.shards != 1)}; {summary.seconds:.1f} s, {rate:.1f} MB/s"
    )
    print("\nIn the configuration:\n")
    print(f"datasets:\n  path: {json.dumps(summary.path, ensure_ascii=False)}")
    if summary.eos_token != 1:
        print(f"  eos_token: {summary.eos_token}")
    print(f"tokenizer:\n  vocab_size: {summary.vocab_size}")


def show_inspection(found: Inspection, as_json: bool) -> None:
    """Print what a data set holds. Raises DataError afterwards when it has problems."""
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        _print_tables(found)
    if found.problems:
        raise DataError(f"{found.file.parent}: {'; '.join(found.problems)}")


def _print_tables(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=120)
    facts = Table(box=None, show_header=False)
    for name, value in _facts(found).items():
        facts.add_row(name, Text(value, overflow="fold"))
    console.print(facts)
    columns = ("bytes", "tokens", "text_tokens", "padding", "documents")
    table = Table(show_footer=len(found.shards) > 1)
    table.add_column("shard", "all", overflow="fold")
    for column in columns:
        table.add_column(column.replace("_", " "), f"{found.total(column):,}", justify="right", overflow="fold")
    table.add_column(
        "largest token", f"{max(shard.max_token for shard in found.shards):,}", justify="right", overflow="fold"
    )
    for shard in found.shards:
        cells = [f"{getattr(shard, column):,}" for column in (*columns, "max_token")]
        table.add_row(Text(shard.file), *cells)
    console.print(table)
    for sample in found.samples:
        console.print(Text(f"\nitem {sample.item:,} ({sample.where})", style="bold"))
        console.print(Text(sample.text))


def _facts(found: Inspection) -> dict[str, str]:
    vocabulary = "not said" if found.vocab_size is None else f"{found.vocab_size:,}"
    return {
        "data set": f"{found.name} ({found.file})",
        "shards in": str(found.folder),
        "tokenizer": found.tokenizer,
        "vocabulary": f"{vocabulary}, stored as {found.dtype}",
        "EOS token": str(found.eos_token),
        f"items of {found.context_length:,}": f"{found.items:,}, of which {found.items_with_text:,} hold text",
    }
