"""`tmrc data`: make tokenized data from text, and look at it."""

from __future__ import annotations

import click

from launch.complete import directories, files


@click.group()
def data() -> None:
    """Prepare and inspect tokenized data."""


@data.command(short_help="Tokenize text into a new data set.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCES...", shell_complete=files)
@click.option("-o", "--out", required=True, shell_complete=directories, help="new or empty directory")
@click.option(
    "--tokenizer", metavar="FILE|NAME", shell_complete=files, help="tokenizer file, or its name on the Hugging Face hub"
)
@click.option("--train-tokenizer", "vocabulary", type=int, metavar="VOCAB", help="train a byte-level BPE of this size")
@click.option("--glob", "globs", multiple=True, metavar="PATTERN", help="files to take from directories; repeatable")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="files and directories to leave out; repeatable")
@click.option("--shuffle-files", is_flag=True, help="read the files in a mixed order, the same each time")
@click.option("--text-field", default="text", show_default=True, help="key or column of .jsonl and .parquet")
@click.option("--name", help="name of the data set and its shards  [default: that of the directory]")
@click.option("--shard-tokens", type=int, default=1 << 27, show_default=True, help="tokens in a shard")
@click.option("--dtype", help="uint16 or uint32  [default: the smallest that fits]")
@click.option("--workers", type=int, help="processes  [default: one a core]")
@click.option("--eos", metavar="TOKEN", help="token put after each document  [default: found in the tokenizer]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def prepare(
    sources: tuple[str, ...],
    out: str,
    tokenizer: str | None,
    vocabulary: int | None,
    globs: tuple[str, ...],
    exclude: tuple[str, ...],
    shuffle_files: bool,
    text_field: str,
    name: str | None,
    shard_tokens: int,
    dtype: str | None,
    workers: int | None,
    eos: str | None,
    as_json: bool,
) -> None:
    """Tokenize text files, directories, .jsonl(.gz) and .parquet into a new data set.

    A text file is one document, and so is a line of .jsonl or a row of .parquet. Hidden files in directories are left
    out; bytes that are not UTF-8 are replaced and counted.
    """
    from tmrc.config.paths import expanded
    from tmrc.data import report
    from tmrc.data.prepare import Settings
    from tmrc.data.prepare import prepare as prepare_data

    settings = Settings(
        tokenizer=tokenizer,
        train_vocabulary=vocabulary,
        globs=globs,
        exclude=exclude,
        shuffle_files=shuffle_files,
        text_field=text_field,
        name=name,
        shard_tokens=shard_tokens,
        dtype=dtype,
        workers=workers,
        eos=eos,
    )
    summary = prepare_data([expanded(source) for source in sources], expanded(out), settings)
    report.show_summary(summary, as_json)


@data.command(short_help="Show what a data set holds.")
@click.argument("path", shell_complete=files)
@click.option("--context-length", type=int, default=512, show_default=True, help="tokens of a sequence")
@click.option("--sample", "samples", type=int, default=0, metavar="N", help="show the beginnings of N sequences")
@click.option("--eos-token", type=int, help="token id that ends a document  [default: what the data says, or 1]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect(path: str, context_length: int, samples: int, eos_token: int | None, as_json: bool) -> None:
    """Show what a data set holds, and check every token against its vocabulary."""
    from tmrc.data import report
    from tmrc.data.inspection import inspect_dataset

    report.show_inspection(inspect_dataset(path, context_length, samples, eos_token), as_json)
