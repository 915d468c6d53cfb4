"""A server that wandb takes for its own: it keeps what it is sent, and can be out of order.

It answers what wandb 0.31 asks when a run is made, resumed, logged to and ended: GraphQL about the viewer, the server's
features and the run, and the run's file stream, whose lines have an offset as on the real server, so that lines sent
to an offset that is taken replace what is there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

API_KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "somebody"


@dataclass
class SentRun:
    """One run as the server has it."""

    run_id: str
    project: str = ""
    upserts: list[dict[str, Any]] = field(default_factory=list)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)  # line -> row
    events: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    endings: list[int] = field(default_factory=list)  # exit codes
    preempting: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, line by line. Raises KeyError where a line is missing."""
        return [self.history[line] for line in range(len(self.history))]

    @property
    def steps(self) -> list[int]:
        """The rows' steps, repeated where the server was sent one twice."""
        return [row["_step"] for row in self.rows]

    def said(self, name: str) -> Any:
        """What a variable of the upserts was last set to."""
        return next((one[name] for one in reversed(self.upserts) if one.get(name) is not None), None)


@dataclass
class WandbServer:
    """What has been sent, and the switches that put the server out of order."""

    url: str = ""
    runs: dict[str, SentRun] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # ids of runs that get an error when they are made
    down: bool = False  # answers nothing but 503
    forgets: bool = False  # takes lines, and does not keep them
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self) -> dict[str, str]:
        """Variables that send wandb here, and nowhere else, and without its usual 15 s between two uploads."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.1",
        }


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """The server, listening on a port of this machine's loopback."""
    state = WandbServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with _Server(("127.0.0.1", 0), handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            http.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed in tests: a connection that breaks off is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[WandbServer]

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Anything else that wandb looks at."""
        self._body()
        self._answer({})

    def do_PUT(self) -> None:
        """A file of the run's."""
        body = self._body()
        _, _, run_id, name = self.path.split("/", 3)
        with self.state.lock:
            self.state.runs[run_id].uploads[name] = body
        self._answer({})

    def do_POST(self) -> None:
        """GraphQL, or lines for a run's files."""
        body = self._body()
        if self.state.down:
            return self._answer({"error": "out of order"}, 503)
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(f"api:{API_KEY}".encode()).decode():
            return self._answer({"errors": [{"message": "no such user"}]}, 401)
        asked = json.loads(body)
        with self.state.lock:
            if self.path.endswith("/file_stream"):
                run = self.state.runs[self.path.split("/")[-2]]
                return self._answer({} if self.state.forgets else _stream(run, asked))
            return self._answer(_graphql(self.state, asked))

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _stream(run: SentRun, asked: dict[str, Any]) -> dict[str, Any]:
    files = asked.get("files") or {}
    lines = files.get("wandb-history.jsonl") or {"offset": 0, "content": []}
    for number, line in enumerate(lines["content"], lines["offset"]):
        run.history[number] = json.loads(line)
    run.events += len((files.get("wandb-events.jsonl") or {"content": []})["content"])
    for line in (files.get("wandb-summary.json") or {"content": []})["content"]:
        run.summary = json.loads(line)
    run.preempting += bool(asked.get("preempting"))
    if asked.get("complete"):
        run.endings.append(asked["exitcode"])
    return {"stopped": False}


def _graphql(state: WandbServer, asked: dict[str, Any]) -> dict[str, Any]:
    name = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
    given = asked.get("variables") or {}
    state.operations.append(name)
    if name == "Viewer":
        node = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": node}}
    if name == "ServerFeaturesQuery":
        return {"data": {"serverInfo": {"features": []}}}
    if name == "RunResumeStatus":
        run = state.runs.get(given["name"])
        return {"data": {"model": {**_project(given), "bucket": _standing(run) if run else None}}}
    if name == "UpsertBucket":
        return _upsert(state, given)
    if name == "CreateRunFiles":
        files = [{"name": one, "uploadUrl": f"{state.url}/put/{given['run']}/{one}"} for one in given["files"]]
        return {"data": {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}}
    return {"data": {}}


def _project(given: dict[str, Any]) -> dict[str, Any]:
    entity = given.get("entity") or ENTITY
    return {"id": "p", "name": given.get("project") or "uncategorized", "entity": {"id": "e", "name": entity}}


def _upsert(state: WandbServer, given: dict[str, Any]) -> dict[str, Any]:
    if given["name"] in state.refused:
        return {"errors": [{"message": "permission denied"}]}
    inserted = given["name"] not in state.runs
    run = state.runs.setdefault(given["name"], SentRun(given["name"]))
    run.upserts.append(given)
    run.project = given.get("project") or run.project
    run.config = json.loads(given["config"]) if given.get("config") else run.config
    bucket = {
        "id": f"id-{run.run_id}",
        "name": run.run_id,
        "displayName": run.said("displayName") or run.run_id,
        "description": "",
        "config": json.dumps(run.config),
        "sweepName": None,
        "project": _project(given),
        "historyLineCount": len(run.history),
    }
    return {"data": {"upsertBucket": {"bucket": bucket, "inserted": inserted}}}


def _standing(run: SentRun) -> dict[str, Any]:
    tail = [json.dumps(row) for row in run.rows[-1:]]
    return {
        "id": f"id-{run.run_id}",
        "name": run.run_id,
        "summaryMetrics": json.dumps(run.summary),
        "displayName": run.said("displayName") or run.run_id,
        "logLineCount": 0,
        "historyLineCount": len(run.history),
        "eventsLineCount": run.events,
        "historyTail": json.dumps(tail),
        "eventsTail": "[]",
        "config": json.dumps(run.config),
        "tags": run.said("tags") or [],
        "notes": run.said("notes"),
        "wandbConfig": json.dumps({"t": 1}),
    }
