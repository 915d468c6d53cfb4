"""Clusters and their nodes, lent to cases that run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster

NODES = 8  # of a cluster that cases share
# Seconds: long enough for a tiny save on a busy machine, short enough to wait for.
SHARED = {"nodes": NODES, "grace": 40, "kill_wait": 20}


class Pool:
    """Brings a cluster up when the first case wants one like it. Close it, or use it as a context."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._free: dict[str, list[str]] = {}
        self._clusters: dict[str, Cluster] = {}
        self._changed = threading.Condition()
        self._count = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all clusters."""
        for cluster in self._clusters.values():
            cluster.down()

    @contextmanager
    def lease(self, count: int, alone: bool = False, **options: Any) -> Iterator[tuple[Cluster, tuple[str, ...]]]:
        """`count` nodes of a cluster with these options, which nobody else uses meanwhile; `alone`: a cluster too."""
        if alone:
            cluster = self._new({**options, "nodes": count})
            try:
                yield cluster, cluster.nodes
            finally:
                cluster.down()
            return
        key = repr(sorted(options.items()))
        nodes = self._take(key, count, options)
        try:
            yield self._clusters[key], nodes
        finally:
            with self._changed:
                self._free[key] += nodes
                self._changed.notify_all()

    def _take(self, key: str, count: int, options: dict[str, Any]) -> tuple[str, ...]:
        with self._changed:
            if key not in self._clusters:
                self._clusters[key] = self._new(options)
                self._free[key] = list(self._clusters[key].nodes)
            while len(self._free[key]) < count:
                self._changed.wait()
            taken = self._free[key][:count]
            del self._free[key][:count]
            return tuple(sorted(taken))  # in Slurm's order: the first is where the batch script runs

    def _new(self, options: dict[str, Any]) -> Cluster:
        with self._changed:
            self._count += 1
            folder = self.root / f"cluster{self._count}"
        return Cluster(folder, **{**SHARED, **options}).up()
