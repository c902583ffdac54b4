"""More requests at once than the server takes, and servers that are stopped with work in their hands: each client hears of it."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hypothesis import strategies as st

from cases import Outcome, try_cases
from helpers import is_empty
from served import Served, served

TITLE = "more requests than the server takes, and stops in the middle: each is answered or told why not, none is lost"
CASES = 200

PACE = 0.004
TOKENS = 12


@dataclass(frozen=True)
class Case:
    max_batch: int
    max_queue: int
    beyond: int
    """Requests beside those that there is room for"""
    streams: int
    """Of them that stream: one in so many, 0 for none"""
    grace: int | None
    """Of a server that is stopped when all have been sent; None for one that is not stopped"""


CASE = st.builds(
    Case,
    max_batch=st.integers(1, 3),
    max_queue=st.integers(0, 4),
    beyond=st.integers(1, 10),
    streams=st.integers(0, 2),
    grace=st.sampled_from([None, None, 0, 20]),
)


def ask(running: Served, number: int, stream: bool) -> str:
    """How a request ended: "answered", "refused", "stopped", or "closed" without a word. Raises AssertionError for anything
    else."""
    fields = {"stream": stream, "seed": number, "num_inference_steps": 2}
    body = json.dumps(running.body("hello", TOKENS, **fields, modalities=["image" if number % 3 == 0 else "text"]))
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
    except ConnectionError:  # RemoteDisconnected is one
        return "closed"
    finally:
        connection.close()
    if answer.status == 200 and stream:
        data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert data and answer.isclosed(), f"a stream without an end: {text[-200:]!r}"
        if data[-1] == "[DONE]":
            return "answered"
        return reason(json.loads(data[-1])["error"], 503)
    if answer.status == 200:
        choice = json.loads(text)["choices"][0]
        assert choice["finish_reason"] in ("stop", "length"), choice
        return "answered"
    assert int(answer.headers["Retry-After"]) >= 1
    return reason(json.loads(text)["error"], answer.status)


def reason(error: dict, status: int) -> str:
    """Of an error in OpenAI's form."""
    assert isinstance(error["message"], str) and {"type", "param", "code"} <= set(error), error
    words = {(429, "rate_limit_exceeded"): "refused", (503, "stopping"): "stopped"}
    assert (status, error["code"]) in words, (status, error)
    return words[status, error["code"]]


def attempt(case: Case) -> None:
    limits = {"max_batch": case.max_batch, "max_queue": case.max_queue, "grace": case.grace or 0}
    room = case.max_batch + case.max_queue
    count = room + case.beyond
    with served(pace=PACE, **limits) as running, ThreadPoolExecutor(count) as pool:
        begun = begin_counts(running)
        asked = [
            pool.submit(ask, running, number, case.streams > 0 and number % case.streams == 0)
            for number in range(count)
        ]
        running.wait(lambda: running.service.accepted == room or all(one.done() for one in asked))
        if case.grace is not None:
            running.stop()
        ends = [one.result(60) for one in asked]
        accepted, most = begun()
        assert most <= room, f"{most} at once, where there is room for {room}"
        counts = {end: ends.count(end) for end in sorted(set(ends))}
        if case.grace is None:
            assert set(counts) <= {"answered", "refused"}, counts
            assert counts["answered"] == accepted >= room, (counts, accepted)
        elif case.grace:
            assert counts.get("answered", 0) == accepted, (counts, accepted)
        else:
            # a connection that came when it stopped is closed before it was heard, as is one that was refused
            assert counts.get("answered", 0) + counts.get("stopped", 0) >= accepted, (counts, accepted)
        running.wait(lambda: running.service.accepted == 0 and is_empty(running.engine))


def begin_counts(running: Served):
    """Tells how many replies the server accepts from now on, and how many at once."""
    accepted, begin = [], running.service.begin

    async def counted(call):
        answer = await begin(call)
        accepted.append(running.service.accepted)
        return answer

    running.service.begin = counted
    return lambda: (len(accepted), max(accepted, default=0))


def run(cases: int, seed: int) -> Outcome:
    return try_cases(CASE, attempt, cases, seed)
