"""`tmrc generate`: text from a run's newest checkpoint."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from launch.complete import files, runs


@click.command()
@click.argument("run", shell_complete=runs)
@click.option("--prompt", default="", help="Text to continue; without it, the model begins a document.")
@click.option("--temperature", default=1.0, show_default=True, help="0 always takes the likeliest token.")
@click.option("--top-k", type=int, help="Draw from the K likeliest tokens only.")
@click.option("--max-new-tokens", default=100, show_default=True, help="Stop after so many, or at an EOS.")
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same text.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    shell_complete=files,
    help="A tokenizer.json, in place of the data's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object when it is done.")
def generate(
    run: str,
    prompt: str,
    temperature: float,
    top_k: int | None,
    max_new_tokens: int,
    seed: int,
    device: str,
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Continue a text with the newest checkpoint of RUN: a run's directory, its id, or the beginning of that."""
    from launch.find import find_run
    from tmrc.config.waiting import waiting

    path = find_run(run).path  # before torch is loaded, which takes a second
    with waiting("the model to be loaded"):
        from tmrc.train import generate as generation

        sampling = generation.Sampling(temperature, top_k, max_new_tokens, seed)
        trained = generation.open_run(path, device, tokenizer)
    tokens = generation.encode(trained, prompt)
    context_length = trained.config.model.context_length
    if len(tokens) > context_length:
        click.echo(f"the prompt has {len(tokens)} tokens; the model sees the last {context_length}", err=True)
    if not as_json:
        click.echo(prompt, nl=False)
    with waiting("the text") if as_json else contextlib.nullcontext():
        result = generation.generate(
            trained, tokens, sampling, on_text=lambda text: None if as_json else click.echo(text, nl=False)
        )
    if not as_json:
        click.echo()
        return
    click.echo(
        json.dumps(
            {
                "run_id": trained.run_id,
                "step": trained.step,
                "prompt": prompt,
                "text": result.text,
                "tokens": result.tokens,
                "finish": result.finish,
            }
        )
    )
