"""Where the torchrun agents of a job with several nodes meet: the first node, at a port that is the job's own."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

# Below where Linux takes ports for outgoing connections (32768 and up), so that none of those can be in the way.
_FIRST, _PORTS = 20_000, 12_000
_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)


@dataclass(frozen=True)
class Rendezvous:
    """The meeting point of `nodes` agents; `key` tells the job from another one at the same place."""

    host: str
    port: int
    nodes: int
    key: str

    def options(self, node: int) -> list[str]:
        """torchrun's options on the job's `node`-th node. The first one serves, and fails when it cannot."""
        conf = f"is_host={int(node == 0)},join_timeout=600"
        return [
            f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.host}:{self.port}",
            f"--rdzv-id={self.key}", f"--rdzv-conf={conf}",
        ]  # fmt: skip


def choose_port(job_number: int, tried: int = 0) -> int:
    """A port that no job with a number near this one chooses and that is free here now.

    Jobs side by side on a node have numbers that differ, but not by a multiple of 12,000. `tried` is how often the port
    has turned out to be taken.
    """
    for offset in range(tried, _PORTS):
        port = _FIRST + (job_number + offset * 997) % _PORTS
        if _free(port):
            return port
    return 0


def port_was_taken(log: str) -> bool:
    """Whether torchrun says so in its log."""
    return _TAKEN.search(log) is not None


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError:
            return False
        return True
