"""What has changed in the data of a run, in as few lines as it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tmrc.train.samples import Changed
from tmrc.verify.facts import steps

_PLACES = 4  # altered sequences of a shard that are named one by one
_NAMED = 3  # shards that a line names


def altered(found: Sequence[Changed], touched: Collection[str], compared: int) -> list[str]:
    """A line for each sequence that has changed, or one for a shard in which many have.

    `found` are the steps, of the `compared` ones, whose tokens have changed; where it cannot be told which of several
    shards has, those that were `touched` are named.
    """
    by_shards: dict[tuple[str, ...], list[Changed]] = {}
    for one in found:
        names = one.shards if one.place else tuple(name for name in one.shards if name in touched) or one.shards
        by_shards.setdefault(names if len(names) == 1 else (), []).append(one)
    lines = []
    for names, those in by_shards.items():
        places = {one.place for one in those}
        if "" not in places and len(places) <= _PLACES:
            lines += [_one_sequence([one for one in those if one.place == place]) for place in sorted(places)]
        else:
            lines.append(_one_shard(names or _all_names(those, touched), those, compared))
    return lines


def _one_sequence(those: Sequence[Changed]) -> str:
    """A sequence that has changed, whatever the number of epochs that used it."""
    again = [one.step for one in those[1:]]
    more = f"; {steps(again)} used it as well" if again else ""
    return f"{those[0].words()}{more}"


def _one_shard(names: Sequence[str], those: Sequence[Changed], compared: int) -> str:
    what = " or ".join(names if len(names) <= _NAMED else [*names[:_NAMED], f"{len(names) - _NAMED:,} others"])
    if len(those) == 1:
        return f"{what}: step {those[0].step:,} was trained on other tokens than its sequences hold now"
    how = "were trained on other tokens than their sequences hold now"
    if len(those) == compared:
        return f"{what}: all {compared:,} steps {how}"
    return f"{what}: {len(those):,} of {compared:,} steps {how} ({steps([one.step for one in those])})"


def _all_names(those: Sequence[Changed], touched: Collection[str]) -> list[str]:
    names = dict.fromkeys(name for one in those for name in one.shards)
    return [name for name in names if name in touched] or list(names)
