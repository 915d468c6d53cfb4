"""Generation: sampling, streaming, and from a run directory to text."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from launch.cli.generate import generate as command
from tmrc.config.errors import CheckpointError, ConfigError, DataError, UserError
from tmrc.config.load import write_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config, DatasetsConfig, ModelConfig, TokenizerConfig
from tmrc.model.build import build_model
from tmrc.train import checkpoint
from tmrc.train.fence import take_over
from tmrc.train.generate import Sampling, TextStream, encode, generate, load_tokenizer, next_tokens, open_run, pick

EOS = 1


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def byte_tokenizer() -> Tokenizer:
    """Two special tokens and one token a byte, so that most characters outside ASCII take several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def small_config(data: Path | None = None, **model: object) -> Config:
    sizes = {"n_head": 2, "d_model": 32, "n_layer": 1, "context_length": 24, **model}
    return dataclasses.replace(
        Config(),
        datasets=DatasetsConfig(path=str(data) if data else None, eos_token=EOS),
        model=dataclasses.replace(ModelConfig(), **sizes),
        tokenizer=TokenizerConfig(vocab_size=258),
    )


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    """A run directory with one checkpoint, and its data with a tokenizer."""
    data, run = tmp_path / "data", RunDir(tmp_path / "run")
    data.mkdir()
    run.path.mkdir()
    info = {"tokenizer": "/gone/tokenizer.json", "file_prefix": "x", "dtype": "uint16", "file_extension": "bin"}
    (data / "metadata.yaml").write_text(yaml.safe_dump({"name": "x", "tokenized_info": {**info, "vocab_size": 258}}))
    byte_tokenizer().save(str(data / "tokenizer.json"))
    config = small_config(data)
    write_config(config, run.config)
    model = build_model(config)
    optimizer = torch.optim.AdamW(model.parameters())
    state = checkpoint.TrainerState(7, 56, 8, 1, 1, torch.__version__, "")
    checkpoint.save_checkpoint(take_over(run, 1), checkpoint.files_of(model, optimizer), state)
    return run.path


class Fixed(nn.Module):
    """A model that predicts the token after `script[position]`, and keeps what it was asked."""

    def __init__(self, script: list[int], vocab_size: int = 258) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.script, self.vocab_size = iter(script), vocab_size
        self.asked: list[tuple[list[int], Tensor]] = []

    def forward(self, tokens_BT: Tensor, mask: Tensor) -> Tensor:
        self.asked.append((tokens_BT[0].tolist(), mask[0, 0]))
        logits_BTV = torch.zeros(*tokens_BT.shape, self.vocab_size)
        logits_BTV[0, -1, next(self.script)] = 100
        return logits_BTV


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([0.0, 3.0, 2.9])
    assert {pick(logits, Sampling(temperature=0), torch.Generator()) for _ in range(20)} == {1}


def test_draws_follow_temperature_and_top_k() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    drawn = [pick(logits, Sampling(temperature=2.0, top_k=2), generator) for _ in range(4000)]
    assert set(drawn) == {1, 2}
    assert drawn.count(1) / 4000 == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.03)
    everything = [pick(logits, Sampling(top_k=99), generator) for _ in range(2000)]
    assert set(everything) == {0, 1, 2, 3}


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    assert pick(torch.tensor([1.0, 80.0, 79.0]), Sampling(temperature=1e-300), torch.Generator()) == 1


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0}, {"max_new_tokens": 0}]
    + [{"seed": -1}, {"seed": 2**63}],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(values))}: got .*, valid: "):
        Sampling(**values)  # type: ignore[arg-type]


def test_it_stops_after_eos_or_at_the_limit() -> None:
    script = [5, 6, EOS, 7]
    assert list(next_tokens(Fixed(script), small_config(), [9], Sampling())) == [5, 6, EOS]
    assert list(next_tokens(Fixed(script), small_config(), [9], Sampling(max_new_tokens=2))) == [5, 6]


def test_the_window_is_the_last_tokens_that_fit() -> None:
    model = Fixed([5, 6, 7])
    list(next_tokens(model, small_config(context_length=4), [10, 11, 12, 13, 14], Sampling(max_new_tokens=3)))
    assert [tokens for tokens, _ in model.asked] == [[11, 12, 13, 14], [12, 13, 14, 5], [13, 14, 5, 6]]


def test_a_prompt_is_one_document_and_eos_ends_one() -> None:
    model = Fixed([5])
    list(next_tokens(model, small_config(), [10, 11, EOS, 12, 13], Sampling(max_new_tokens=1)))
    assert model.asked[0][1][-1].tolist() == [False, False, False, True, True]
    model = Fixed([5])
    list(next_tokens(model, small_config(), [10, 11, 12], Sampling(max_new_tokens=1)))
    assert torch.equal(model.asked[0][1], torch.ones(3, 3).tril().bool())


def test_an_empty_prompt_begins_a_document() -> None:
    model = Fixed([5, 6])
    assert list(next_tokens(model, small_config(), [], Sampling(max_new_tokens=2))) == [5, 6]
    assert [tokens for tokens, _ in model.asked] == [[EOS], [EOS, 5]]


@pytest.mark.parametrize(
    "keys",
    [{}, {"mask": "causal"}, {"flex": False, "flash": True, "mask": "causal"}, {"dropout_p": 0.5, "flex": False}],
)
def test_every_kind_of_model_generates_and_a_seed_repeats(keys: dict[str, object]) -> None:
    config = small_config(**keys)
    model = build_model(config).eval()
    once, again, other = (list(next_tokens(model, config, [9], Sampling(seed=seed))) for seed in (3, 3, 4))
    assert once == again != other


@given(text=st.text(max_size=30), start=st.text(max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_stream_is_the_text_and_never_half_a_character(text: str, start: str) -> None:
    tokenizer = byte_tokenizer()
    for left_out in ("\ufffd", "<pad>", "</s>", "<unk>"):  # special tokens are no text, and are not printed
        text = text.replace(left_out, "")
    stream = TextStream(tokenizer, tokenizer.encode(start).ids)
    pieces = [stream.push(token) for token in tokenizer.encode(text).ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_keeps_the_space_that_a_decoder_strips() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1, "▁three": 2}, unk_token="▁one"))
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(tokenizer, [0])
    assert [stream.push(1), stream.push(2)] == [" two", " three"]


def test_a_long_stream_costs_no_more_for_each_token() -> None:
    class Counting:
        longest = 0
        decode_ = byte_tokenizer().decode

        def decode(self, tokens: list[int]) -> str:
            self.longest = max(self.longest, len(tokens))
            return str(Counting.decode_(tokens))

    tokenizer = Counting()
    stream = TextStream(tokenizer, [40] * 100)  # type: ignore[arg-type]
    for _ in range(200):
        assert stream.push(40)
    assert tokenizer.longest <= TextStream.CONTEXT + 1


def test_bytes_that_never_become_a_character_are_shown_once_it_is_certain() -> None:
    tokenizer = byte_tokenizer()
    lone, letter = tokenizer.encode("é").ids[1], tokenizer.encode("a").ids[0]
    stream = TextStream(tokenizer)
    assert [stream.push(lone), stream.push(letter)] == ["", "\ufffda"]


def test_from_a_run_to_text(run_path: Path) -> None:
    run = open_run(run_path, "cpu")
    assert (run.run_id, run.step, run.model.training) == ("run", 7, False)
    pieces: list[str] = []
    prompt = encode(run, "def é")
    result = generate(run, prompt, Sampling(max_new_tokens=40), pieces.append)
    assert result.text == "".join(pieces)
    assert result.tokens == list(
        next_tokens(build_model(run.config).eval(), run.config, prompt, Sampling(max_new_tokens=40))
    )
    assert result.finish == ("eos" if result.tokens[-1] == EOS else "length")


def test_the_last_eos_is_no_text(run_path: Path) -> None:
    run = open_run(run_path)
    letters = run.tokenizer.encode("ab").ids
    result = generate(dataclasses.replace(run, model=Fixed([*letters, EOS])), [], Sampling())
    assert (result.text, result.tokens, result.finish) == ("ab", [*letters, EOS], "eos")


def test_the_command(run_path: Path) -> None:
    arguments = [str(run_path), "--prompt", "x" * 30, "--max-new-tokens", "8", "--seed", "1"]
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert set(found) == {"run_id", "step", "prompt", "text", "tokens", "finish"}
    assert len(found["tokens"]) == 8
    assert "the prompt has 30 tokens; the model sees the last 24" in result.stderr
    plain = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert plain.stdout == "x" * 30 + found["text"] + "\n"


def mistakes(run: Path) -> Iterator[tuple[type[UserError], str]]:
    """Break the run in one way after the other; what must be said each time."""
    good = run / "config.yaml"
    config = good.read_text()
    (run.parent / "data" / "tokenizer.json").rename(run.parent / "kept.json")
    yield DataError, "no tokenizer.json beside it, and its tokenizer '/gone/tokenizer.json' cannot be read"
    (run.parent / "data" / "tokenizer.json").write_text("{")
    yield DataError, "tokenizer.json: not a tokenizer"
    unresolved = config.replace("path: " + str(run.parent / "data"), "path: null").replace("name: null", "name: x", 1)
    good.write_text(unresolved)
    yield DataError, "x: no such directory"
    good.write_text(config.replace("use_oracle: false", "use_oracle: true"))
    yield UserError, "no model"
    good.write_text(config.replace("n_head: 2", "n_heads: 2"))
    yield ConfigError, "n_heads"
    good.write_text(config)
    (run / "checkpoints" / "step_00000007").rename(run / "elsewhere")
    yield CheckpointError, "no checkpoint yet"
    good.unlink()
    yield UserError, r"no config\.yaml, so not a run directory"


def test_each_mistake_is_one_line(run_path: Path) -> None:
    for kind, message in mistakes(run_path):
        with pytest.raises(kind, match=message):
            open_run(run_path)
    with pytest.raises(UserError, match="nowhere: no such directory"):
        open_run(run_path / "nowhere")
    assert load_tokenizer("unused", run_path.parent / "kept.json").get_vocab_size() == 258


def test_a_token_outside_the_vocabulary_is_refused(run_path: Path) -> None:
    run = open_run(run_path)
    small = dataclasses.replace(run.config, tokenizer=TokenizerConfig(vocab_size=20))
    with pytest.raises(UserError, match="not in the model's vocabulary of 20"):
        encode(dataclasses.replace(run, config=small), "xyz")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(run_path: Path) -> None:
    with pytest.raises(UserError, match="no GPU here"):
        open_run(run_path, "cuda")
