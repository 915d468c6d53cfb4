"""Tokenizers, from a file or the Hugging Face hub or trained on the spot, and the token that ends a document."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tmrc.config.errors import DataError, shown
from tmrc.config.paths import expanded

SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>"]  # ids 0, 1 and 2: 1 ends a document, as tatm assumes
EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "eos")
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer in a tokenizers JSON file, in a directory that holds tokenizer.json, or of that name on the hub.

    Raises DataError when there is none.
    """
    path = expanded(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        with tokenizer_errors(f"{file}: not a tokenizer file"):
            return Tokenizer.from_file(str(file))
    if file.suffix == ".json" or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise DataError(f"{file}: no such tokenizer file")
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    try:
        hub_log.setLevel(logging.CRITICAL)  # it reports each of its retries
        return Tokenizer.from_pretrained(name)
    except Exception as error:
        cause = str(error).split("\n")[0]
        raise DataError(f"tokenizer {name}: no such file, and not from the Hugging Face hub: {cause}") from error
    finally:
        hub_log.setLevel(level)


@contextlib.contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Raises DataError, which begins with `what`, for whatever the library raises within.

    It raises bare Exception; and where a file has it do what it does not expect, such as a pattern that matches in too
    many ways, PanicException, which is no Exception and has no public name.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DataError(f"{what}: {shown(str(error), 300)}") from None
        raise


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded and comes back unchanged. Raises DataError."""
    check_vocabulary(vocab_size)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def check_vocabulary(vocab_size: int) -> None:
    """Raise DataError when a vocabulary cannot hold every byte and the special tokens."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(
            f"--train-tokenizer: got {vocab_size}, valid: {SMALLEST_VOCABULARY} and above (every byte and "
            f"{', '.join(SPECIAL_TOKENS)})"
        )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the highest token id: tokens added to a vocabulary can leave gaps in its ids."""
    return max(tokenizer.get_vocab().values()) + 1


def find_eos(tokenizer: Tokenizer, token: str | None = None) -> tuple[str, int]:
    """The token that ends a document and its id: the one given, else the usual names. Raises DataError."""
    for name in [token] if token is not None else EOS_NAMES:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return name, found
    if token is not None:
        raise DataError(f"--eos: got {shown(token)}, which is no token of this tokenizer")
    raise DataError(f"the tokenizer has none of {', '.join(EOS_NAMES)}: say with --eos which token ends a document")


class Encoder:
    """Encodes text as it stands: special tokens that occur in it are text, nothing is added, cut off or padded."""

    def __init__(self, tokenizer_json: str) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text."""
        # A batch of one: `encode` tracks character offsets and is a third slower.
        with tokenizer_errors("the tokenizer cannot encode the text"):
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
