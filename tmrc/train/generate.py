"""Text from a trained run: its newest checkpoint, the tokenizer of its data, one token after the other.

Every new token runs the window of the last `context_length` tokens through the model again. There is no cache of keys
and values: it would have to be built into every model, its results would differ in the last bits from those of the
training code, and learned positions make it useless once the window slides.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tmrc.config.errors import CheckpointError, DataError, UserError, shown
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.metadata import load_metadata
from tmrc.data.tokenizer import tokenizer_errors
from tmrc.model.attention import build_mask
from tmrc.model.build import build_model
from tmrc.train.batch import document_ids
from tmrc.train.checkpoint import load_model, newest_checkpoint

REPLACEMENT = "\ufffd"  # what bytes that are not (yet) valid UTF-8 decode to
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises UserError for values that mean nothing."""

    temperature: float = 1.0  # 0 always takes the likeliest token
    top_k: int | None = None  # draw from the k likeliest; None from all
    max_new_tokens: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature: got {self.temperature}, valid: 0 (the likeliest token) and above")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k: got {self.top_k}, valid: 1 and above")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens: got {self.max_new_tokens}, valid: 1 and above")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed: got {self.seed}, valid: 0 to 2**63 - 1")


@dataclass(frozen=True)
class TrainedRun:
    """A run's model, as its newest checkpoint has it, ready to generate."""

    run_id: str
    step: int
    config: Config
    model: nn.Module
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Generation:
    """What followed a prompt. `tokens` has the EOS when there was one, `text` has not."""

    text: str
    tokens: list[int]
    finish: Literal["eos", "length"]


def open_run(path: Path, device: str = "auto", tokenizer_file: Path | None = None) -> TrainedRun:
    """Load the newest checkpoint of the run in directory `path`, and the tokenizer of its data.

    Raises UserError where there is no run, checkpoint, tokenizer or device.
    """
    run = RunDir(path)
    if not run.config.is_file():
        raise UserError(f"{path}: {'no config.yaml, so not a run directory' if path.exists() else 'no such directory'}")
    config = load_config(run.config)
    if config.training.use_oracle:
        raise UserError(f"{path}: training.use_oracle was true, so the run has no model")
    place = _device(device)
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(
            f"{path}: no checkpoint yet; training.save_every is {config.training.save_every:g} seconds"
        )
    tokenizer = load_tokenizer(config.datasets.path or str(config.datasets.name), tokenizer_file)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dropout, which there is none of here
        model = build_model(config)
    model.to_empty(device="cpu")
    load_model(checkpoint, model)
    return TrainedRun(run.run_id, checkpoint.step, config, model.to(place).eval(), tokenizer)


def load_tokenizer(data: str, file: Path | None = None) -> Tokenizer:
    """The tokenizer in `file`; else tokenizer.json beside the metadata of the data set `data`, or what that names.

    A name that is no file is looked up on the Hugging Face Hub. Raises DataError that says where was looked.
    """
    if file is not None:
        return _read_tokenizer(file)
    metadata = load_metadata(data)
    for candidate in (metadata.tokenizer_file, Path(metadata.tokenizer)):
        if candidate.is_file():
            return _read_tokenizer(candidate)
    reason = "no such file"
    if _HUB_NAME.fullmatch(metadata.tokenizer) and not metadata.tokenizer.endswith(".json"):
        try:
            return Tokenizer.from_pretrained(metadata.tokenizer)
        except Exception as error:  # of the network, the hub's client or the file, none of a class that is documented
            reason = shown(str(error))
    raise DataError(
        f"{metadata.file}: no {metadata.tokenizer_file.name} beside it, and its tokenizer "
        f"{shown(metadata.tokenizer)} cannot be read ({reason}); give --tokenizer FILE"
    )


def encode(run: TrainedRun, prompt: str) -> list[int]:
    """The prompt's tokens. Raises UserError when the model has no row for one of them."""
    text = prompt.encode("utf8", "surrogateescape").decode("utf8", "replace")  # an argument may hold any bytes
    with tokenizer_errors("prompt: the tokenizer cannot encode it"):
        tokens: list[int] = run.tokenizer.encode(text, add_special_tokens=False).ids
    vocab_size = run.config.tokenizer.vocab_size
    if tokens and max(tokens) >= vocab_size:
        raise UserError(
            f"prompt: token {max(tokens)} is not in the model's vocabulary of {vocab_size}; another tokenizer?"
        )
    return tokens


def generate(
    run: TrainedRun, prompt: Sequence[int], sampling: Sampling, on_text: Callable[[str], None] = lambda text: None
) -> Generation:
    """Continue `prompt` (tokens from `encode`) and call `on_text` with each piece of text as it becomes certain."""
    eos = run.config.datasets.eos_token
    with tokenizer_errors("the tokenizer cannot decode the prompt"):
        stream = TextStream(run.tokenizer, prompt)
    tokens: list[int] = []
    pieces: list[str] = []
    for token in next_tokens(run.model, run.config, prompt, sampling):
        tokens.append(token)
        with tokenizer_errors(f"the tokenizer cannot decode token {token}"):
            piece = stream.push(token) if token != eos else ""
        if piece:
            pieces.append(piece)
            on_text(piece)
    return Generation("".join(pieces), tokens, "eos" if tokens[-1] == eos else "length")


def next_tokens(model: nn.Module, config: Config, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield one token after the other: at most `max_new_tokens`, and none after an EOS.

    An empty prompt starts from an EOS, where a new document begins. A document mask applies as in training, so a prompt
    without EOS is one document. Of more tokens than the context holds, the last ones count.
    """
    eos = config.datasets.eos_token
    device = next(model.parameters()).device
    precision = getattr(torch, config.model.autocast_precision)
    autocast = (
        device.type == "cuda" and precision != torch.float32
    )  # a CPU's bfloat16 is often emulated: slower, coarser
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = list(prompt) or [eos]
    for _ in range(sampling.max_new_tokens):
        window_BT = torch.tensor([tokens[-config.model.context_length :]], device=device)
        mask = build_mask(config.model, "sdpa", document_ids(window_BT, eos))
        with torch.inference_mode(), torch.autocast(device.type, precision, enabled=autocast):
            logits_V = model(window_BT, mask)[0, -1]
        tokens.append(pick(logits_V, sampling, generator))
        yield tokens[-1]
        if tokens[-1] == eos:
            return


def pick(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token, on the CPU and in float64, so that the draw does not depend on the device."""
    logits_V = logits_V.cpu().double()
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    best_K, tokens_K = logits_V.topk(min(sampling.top_k or len(logits_V), len(logits_V)))
    probabilities_K = ((best_K - best_K[0]) / sampling.temperature).softmax(0)
    return int(tokens_K[torch.multinomial(probabilities_K, 1, generator=generator)])


class TextStream:
    """Decodes tokens one by one and holds text back until it is certain.

    A character may take several tokens of a byte-level vocabulary, and some decoders strip the first token of a text;
    so each new token is decoded together with the ones before it, and only what it added is given out.
    """

    CONTEXT = 8  # tokens of the prompt that are enough to decode what follows it

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-self.CONTEXT :])
        self._given = self._tokenizer.decode(self._tokens)  # text that is out already
        self._new_from = len(self._tokens)

    def push(self, token: int) -> str:
        """The text that `token` completes, empty while a character is incomplete."""
        self._tokens.append(token)
        text: str = self._tokenizer.decode(self._tokens)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._given):
            return ""
        piece = text[len(self._given) :]
        self._tokens = self._tokens[self._new_from :]  # the last piece is context enough for the next
        self._new_from = len(self._tokens)
        self._given = self._tokenizer.decode(self._tokens)
        return piece


def _read_tokenizer(file: Path) -> Tokenizer:
    with tokenizer_errors(f"{file}: not a tokenizer"):
        return Tokenizer.from_file(str(file))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: got 'cuda', but there is no GPU here; valid: auto, cpu")
    return torch.device(name)
