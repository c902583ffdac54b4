"""Clients that leave at any moment: while they still send, while they wait, while the model writes for them or draws."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from functools import partial

import psutil
from hypothesis import strategies as st

from cases import Outcome, try_cases
from helpers import is_empty
from limner.app.server.store import MARK, NAME
from served import Served, served

TITLE = "clients of the server that leave at any moment: one step at most is done for them, nothing is left"
CASES = 1000

PACE = 0.008
"""Seconds of a unit of work: longer than the event loop needs to hear that a client left"""
ROWS = 2
"""Requests that the engine works at; a third one waits"""


@dataclass(frozen=True)
class Case:
    path: str
    stream: bool
    images: str
    n: int
    sent: float
    """Part of the request that is sent"""
    units: int
    """Of work after which the client leaves"""
    company: int
    """Other requests that are answered meanwhile; the engine has no room beside `ROWS` of them"""
    resets: bool
    """Whether the connection is reset, and not closed"""


CASE = st.builds(
    Case,
    path=st.sampled_from(["chat/completions", "responses", "images/generations"]),
    stream=st.booleans(),
    images=st.sampled_from(["text", "image"]),
    n=st.integers(1, 2),
    sent=st.sampled_from([1.0, 1.0, 1.0, 0.99, 0.7, 0.3]),
    units=st.integers(0, 25),
    company=st.sampled_from([0, 0, 1, ROWS]),
    resets=st.booleans(),
)


def request_of(running: Served, case: Case) -> bytes:
    fields = {"model": running.model.name, "stream": case.stream, "num_inference_steps": 20}
    if case.path == "responses":
        fields |= {"input": "a picture", "max_output_tokens": 60, "tools": [{"type": "image_generation"}]}
        fields |= {"tool_choice": "required" if case.images == "image" else "none"}
    elif case.path == "images/generations":
        fields |= {"prompt": "a picture", "n": 1 if case.stream else case.n}
    else:
        fields |= running.body("a picture", 60, n=case.n, modalities=[case.images])
    body = json.dumps(fields).encode()
    head = f"POST /v1/{case.path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(running: Served, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    connection.sendall(data)
    return connection


def leave(connection: socket.socket, resets: bool) -> None:
    if resets:  # no lingering: what is on the way is thrown away, and the other side gets an error
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def attempt(running: Served, before: dict[str, int], case: Case) -> None:
    long = Case("chat/completions", False, "text", 1, 1.0, 0, 0, False)
    others = []
    for number in range(case.company):
        others.append(connect(running, request_of(running, long)))
        running.wait(lambda number=number: len(running.engine.requests) == number + 1)
    data = request_of(running, case)
    begun = running.units
    connection = connect(running, data[: max(1, int(len(data) * case.sent))])
    if case.sent == 1:
        running.wait(lambda: len(running.engine.requests) > case.company or running.service.accepted == 0)
    end = time.monotonic() + 1
    while running.units < begun + case.units and time.monotonic() < end and running.service.accepted:
        time.sleep(0.001)
    there = running.engine.requests[case.company :]
    left = running.units
    leave(connection, case.resets)
    running.wait(lambda: not [one for one in there if one in running.engine.requests] or all(one.over for one in there))
    after = running.units - left
    for other in others:
        leave(other, case.resets)
    assert after <= 1, f"{after} more units of work"
    running.wait(lambda: running.service.accepted == 0 and is_empty(running.engine))
    running.wait(lambda: running.tasks() <= before["tasks"])
    running.wait(lambda: len(running.server.server_state.connections) == 0)


def held(running: Served) -> dict[str, int]:
    """What a server that does nothing has."""
    process = psutil.Process()
    return {"tasks": running.tasks(), "files": process.num_fds(), "threads": process.num_threads()}


def run(cases: int, seed: int) -> Outcome:
    """Try `cases` clients, one after the other, at one server."""
    with served(pace=PACE, max_batch=ROWS, max_queue=8) as running:
        running.post(running.body("hello", 2))
        running.wait(lambda: running.tasks() and not running.server.server_state.connections)
        before = held(running)
        outcome = try_cases(CASE, partial(attempt, running, before), cases, seed)
        after = held(running)
        # torch and the readers start threads when they are needed first
        if after["files"] > before["files"] or after["threads"] > before["threads"] + 8:
            outcome.failures.append(f"held before: {before}, after all: {after}")
        kept = [path.name for path in running.service.store.folder.iterdir() if not NAME.fullmatch(path.name)]
        if set(kept) - {MARK}:
            outcome.failures.append(f"left behind: {kept[:5]}")
        answer = running.post(running.body("hello", 2))
        if answer.status_code != 200:
            outcome.failures.append(f"afterwards: {answer.status_code} {answer.text:.200}")
    return outcome
