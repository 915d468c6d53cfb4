"""What `tmrc data` prints: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tmrc.config.errors import DataError

if TYPE_CHECKING:
    from tmrc.data.inspection import Inspection, ShardReport
    from tmrc.data.prepare import Summary

COUNTS = ("bytes", "tokens", "text_tokens", "padding", "documents")  # of a shard, which can be summed up
HEADS = {"text_tokens": "text\ntokens", "max_token": "largest\ntoken"}
NARROWEST_NAME = 10  # columns that a shard's name keeps


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
    console.print()
    print_shards(found.shards, console.width)
    for sample in found.samples:
        console.print(Text(f"\nitem {sample.item:,} ({sample.where})", style="bold"))
        console.print(Text(sample.text))


def print_shards(shards: Sequence[ShardReport], columns: int) -> None:
    """Print a table of the shards in `columns` columns. Names are folded, numbers never: rather are lines too long."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = [("shard", *(shard.file for shard in shards), "all")]
    numbers = [_cells(shards, name, sum) for name in COUNTS] + [_cells(shards, "max_token", max)]
    widths = [max(len(part) for cell in cells for part in cell.split()) for cells in numbers]
    gap = 1 if columns < sum(widths) + 2 * len(widths) + max(map(len, names[0])) else 2
    needed = sum(widths) + gap * len(widths) + NARROWEST_NAME
    table = Table(
        box=box.SIMPLE, show_edge=False, padding=(0, 0, 0, gap - 1), pad_edge=False, show_footer=len(shards) > 1,
        width=needed if needed > columns else None,
    )  # fmt: skip
    table.add_column("shard", "all", overflow="fold")
    for head, *_, total in numbers:
        table.add_column(head, total, justify="right", no_wrap=True)
    for name, *cells in list(zip(*names, *numbers, strict=True))[1:-1]:
        table.add_row(Text(name), *cells)
    Console(width=columns).print(table, crop=False)


def _cells(shards: Sequence[ShardReport], name: str, sum_of: Callable[[Iterable[int]], int]) -> list[str]:
    """One column of numbers: its head, a cell for each shard, and what stands below all of them."""
    values: list[int] = [getattr(shard, name) for shard in shards]
    head = HEADS.get(name, name)
    return [head, *(f"{value:,}" for value in values), f"{sum_of(values):,}"]


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
