from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tmrc.data.layout import split_layout
from tmrc.data.metadata import Shard

shard_lists = st.lists(
    st.integers(1, 60).flatmap(lambda n: st.builds(Shard, st.just(Path("x")), st.just(n), st.integers(0, n))),
    min_size=1,
    max_size=8,
)


def text_flags(shards: list[Shard], context_length: int) -> list[bool]:
    """For every chunk, in order: does it hold text?"""
    return [begin < shard.text_tokens for shard in shards for begin in range(0, shard.tokens, context_length)]


@given(shard_lists, st.integers(1, 70), st.integers(0, 10))
def test_default_validation_is_the_last_texts_up_to_a_tenth(
    shards: list[Shard], context_length: int, wanted: int
) -> None:
    flags = text_flags(shards, context_length)
    layout = split_layout(shards, context_length, None, wanted)
    assert layout.num_items == len(flags)
    assert layout.validation_texts == min(wanted, sum(flags) // 10)
    assert layout.train_texts == sum(flags) - layout.validation_texts == sum(flags[: layout.split_index])
    if layout.validation_texts == 0:
        assert layout.split_index == len(flags)


@given(shard_lists, st.integers(1, 70), st.floats(0, 0.999))
def test_text_ranges_name_the_items_with_text(shards: list[Shard], context_length: int, ratio: float) -> None:
    flags = text_flags(shards, context_length)
    layout = split_layout(shards, context_length, ratio)
    wanted = [item for item, text in enumerate(flags) if text]
    listed = {
        split: [item for first, count in layout.text_ranges(split) for item in range(first, first + count)]
        for split in (None, "train", "validation")
    }
    assert listed[None] == wanted
    assert listed["train"] == [item for item in wanted if item < layout.split_index]
    assert listed["validation"] == [item for item in wanted if item >= layout.split_index]
    assert (layout.train_texts, layout.validation_texts) == (len(listed["train"]), len(listed["validation"]))


def test_zero_holds_nothing_out() -> None:
    shards = [Shard(Path("x"), 1000, 1000)]
    assert split_layout(shards, 10, 0, 5).validation_texts == 0
    assert split_layout(shards, 10, None, 0).validation_texts == 0
    assert split_layout(shards, 10, 1).split_index == 99
    assert split_layout(shards, 10, 100).split_index == 0
