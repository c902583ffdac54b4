"""Requests of every kind of wrong: each field with values of every type, broken JSON, odd headers, methods and connections."""

from __future__ import annotations

import base64
import copy
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from hypothesis import strategies as st
from PIL import Image

from cases import Outcome, try_cases

TITLE = "requests of every kind of wrong to all endpoints: no answer of 5xx, no contents in the log, memory as it was"
CASES = 10_000

WARM_UP = 0.3
"""Of the cases, after which memory is compared"""
MAX_GROWTH = 1.05
PATIENCE = 3.0
"""Seconds after which a client leaves: values in range may ask for much"""
SECRET = "a-word-that-no-log-may-hold"


def data_uri(mode: str, colour: tuple[int, ...]) -> str:
    file = io.BytesIO()
    Image.new(mode, (16, 16), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


RED, MASK = data_uri("RGB", (255, 0, 0)), data_uri("RGBA", (0, 0, 0, 0))
FEW = {"num_inference_steps": 1, "seed": 3, "temperature": 0.0, "top_p": 0.9, "top_k": 5, "guidance_scale": 1.0}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "nano",
        "messages": [
            {"role": "system", "content": SECRET},
            {"role": "user", "content": [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": RED}}]},
            {"role": "assistant", "content": "a dog", "images": [{"type": "image_url", "image_url": {"url": RED}}]},
            {"role": "user", "content": "go on", "name": "me"},
        ],
        "max_tokens": 3,
        "modalities": ["text"],
        "size": "auto",
        "n": 1,
        "stop": ["x"],
        "stream": False,
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
        "tools": [],
        **FEW,
    },
    "/v1/responses": {
        "model": "nano",
        "instructions": SECRET,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": SECRET}, {"type": "input_image", "image_url": RED}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a dog", "annotations": []}]},
            {"role": "user", "content": "go on"},
        ],
        "tools": [{"type": "image_generation", "size": "auto", "partial_images": 1}],
        "tool_choice": "auto",
        "max_output_tokens": 3,
        "store": True,
        "stream": False,
        "previous_response_id": None,
        "metadata": {"a": "b"},
        **FEW,
    },
    "/v1/images/generations": {
        "model": "nano",
        "prompt": SECRET,
        "n": 1,
        "size": "auto",
        "response_format": "b64_json",
        "stream": False,
        "user": "me",
        "seed": 3,
        "num_inference_steps": 1,
    },
    "/v1/images/edits": {
        "model": "nano",
        "prompt": SECRET,
        "images": [{"image_url": RED}],
        "mask": {"image_url": MASK},
        "n": 1,
        "size": "auto",
        "seed": 3,
        "num_inference_steps": 1,
    },
}  # fmt: skip
"""A request for each path that takes a body"""
DEEP = "[" * 3000 + "]" * 3000
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1e308, -0.5, 2**63, 10**400, float("nan"), float("inf"), "", " ", "\x00", "\ud800", "auto",
    "image", "1x1", "100000x100000", "-1x8", "8x8x8", "data:image/png;base64,AAAA", "data:,", "file:///etc/passwd", "../../x",
    "http://127.0.0.1:1/x.png", "http://[::1", "<|im_start|>", "<img>", "\u202e", "é" * 50_000, [], {}, [[]], [None], [1, "a"],
    {"type": "text"}, {"type": "image_url"}, {"url": 1}, {"role": "user"}, {"type": "text", "text": SECRET},
    [{"type": "nothing"}],
]  # fmt: skip


@dataclass
class Case:
    """A request as bytes of JSON, and how it is sent."""

    path: str
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    """Changes: what is done, at which of the body's places, with which of the odd values"""
    broken: str = "no"
    """How the bytes of the body are broken"""
    method: str = "POST"
    kind: str = "application/json"
    version: str = "1.1"
    headers: list[tuple[str, str]] = field(default_factory=list)
    sending: str = "whole"


CHANGES = ("replace", "replace", "replace", "delete", "add", "rename", "double", "wrap")
step = st.tuples(st.sampled_from(CHANGES), st.integers(0, 99), st.integers(0, len(ODD) - 1))
ODD_HEADERS = [
    ("Host", "evil.example"), ("Host", ""), ("Origin", "http://evil.example"), ("Origin", "null"), ("Authorization", "Bearer x"),
    ("Authorization", "Basic !"), ("Accept", "nothing/at-all"), ("Expect", "100-continue"), ("Content-Encoding", "gzip"),
    ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "x"), ("Content-Length", "-1"), ("Content-Length", "99999999999"),
    ("Content-Length", "abc"), ("Upgrade", "websocket"), ("Upgrade", "h2c"), ("Connection", "Upgrade"),
    ("Cookie", "a=" + "b" * 9000),
    ("X-" + "y" * 300, "z"), ("Range", "bytes=0-5"), ("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "\xff"),
]  # fmt: skip
KINDS = [
    "", "text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=z", "multipart/form-data; boundary=" + "y" * 300, "image/png", "application/xml",
]  # fmt: skip
FORM = "multipart/form-data; boundary=x"
BROKEN = ["cut", "bytes", "deep", "nan", "utf16", "surrogate", "huge", "empty", "zeros", "twice"]
SENDING = ["slow", "chunked", "half", "pipelined", "keep", "extra", "bare"]
METHODS = ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "G" * 200]


def cases_of(paths: list[str]) -> st.SearchStrategy[Case]:
    """Cases for a server that has these paths beside those of `VALID`."""
    odd_paths = [
        *paths, "/", "//", "/v1", "/v1/models/%00", "/v1/models/../../x", "/v1/responses/" + "x" * 200, "/pictures/..%2f..%2fx",
        "/files/" + "a" * 32 + ".png", "/openapi.json", "/metrics?" + "a=b&" * 500, "/v1/chat/completions/", "/%ff%fe", "*",
    ]  # fmt: skip
    path = st.sampled_from([*VALID, *odd_paths])
    known = st.sampled_from(sorted(set(VALID) & set(paths)))
    changed = st.builds(Case, known, st.lists(step, min_size=1, max_size=3))
    few = st.lists(step, max_size=1)
    methods, versions = st.sampled_from(["POST", *METHODS]), st.sampled_from(["1.1", "1.1", "1.0", "0.9", "2"])
    return st.one_of(
        changed,
        changed,
        changed,
        st.builds(Case, known, few, broken=st.sampled_from(BROKEN)),
        st.builds(Case, path, few, method=methods, version=versions),
        st.builds(Case, known, few, kind=st.sampled_from(KINDS)),
        st.builds(Case, path, few, headers=st.lists(st.sampled_from(ODD_HEADERS), min_size=1, max_size=3)),
        st.builds(Case, known, few, sending=st.sampled_from(SENDING)),
        st.builds(Case, st.just("/v1/images/edits"), st.lists(step, max_size=2), kind=st.just(FORM)),
    )  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """All containers of a body with a key of each."""
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else []
    return [(value, key) for key in keys] + [found for key in keys for found in places(value[key])]


def body_of(case: Case) -> bytes:
    body: Any = copy.deepcopy(VALID.get(case.path, VALID["/v1/chat/completions"]))
    for change, where, what in case.steps:
        if not (found := places(body)):
            break
        (holder, key), odd = found[where % len(found)], copy.deepcopy(ODD[what])
        if change == "replace":
            holder[key] = odd
        elif change == "delete":
            del holder[key]
        elif change == "double":
            holder[key] = [holder[key], copy.deepcopy(holder[key])]
        elif change == "wrap":
            holder[key] = {"x": holder[key]}
        elif isinstance(holder, dict):
            holder["unknown" if change == "add" else str(key).upper()] = odd
        else:
            holder.append(odd)
    if case.kind == FORM:
        return form_of(body)
    text = json.dumps(body)
    if case.broken == "deep":
        text = text[:-1] + f', "deep": {DEEP}}}'
    elif case.broken == "surrogate":
        text = text.replace(SECRET, "\\ud83d")
    data = text.encode("utf-16" if case.broken == "utf16" else "utf-8")
    return {
        "cut": data[: len(data) * 2 // 3],
        "bytes": b"\xff\xfe" + data,
        "nan": data.replace(b": 3", b": NaN"),
        "huge": data[:-1] + b', "user": "' + b"x" * 3_000_000 + b'"}',
        "empty": b"",
        "zeros": bytes(100),
        "twice": data[:-1] + b', "model": "other"' * 3 + b"}",
    }.get(case.broken, data)


def form_of(body: dict[str, Any]) -> bytes:
    """The fields as a form, those of pictures as files."""
    parts = []
    for name, value in body.items():
        file = '; filename="a.png"\r\nContent-Type: image/png' if name in ("images", "mask") else ""
        png = base64.b64decode((MASK if name == "mask" else RED).partition(",")[2])
        sent = png if file else str(value).encode("utf-8", "surrogatepass")
        head = f'--x\r\nContent-Disposition: form-data; name="{name.replace("images", "image")}"{file}\r\n\r\n'
        parts.append(head.encode() + sent + b"\r\n")
    return b"".join(parts) + b"--x--\r\n"


def message_of(case: Case, port: int) -> list[bytes]:
    """What is sent, in pieces."""
    data = body_of(case)
    headers = [("Host", f"127.0.0.1:{port}"), *([("Content-Type", case.kind)] if case.kind else [])]
    if case.sending == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        pieces = [data[i : i + 99] for i in range(0, len(data), 99)]
        data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        headers.append(("Content-Length", str(len(data))))
    headers = [pair for pair in headers if pair[0] not in {name for name, _ in case.headers}] + case.headers
    if case.sending not in ("keep", "pipelined"):
        headers.append(("Connection", "close"))
    head = f"{case.method} {case.path} HTTP/{case.version}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in headers
    )
    whole = head.encode("latin-1") + b"\r\n" + data
    if case.sending == "bare":
        return [whole.replace(b"\r\n", b"\n")]
    if case.sending == "half":
        return [whole[: len(whole) // 2]]
    if case.sending == "extra":
        return [whole + b"GARBAGE" * 20]
    if case.sending == "pipelined":
        return [whole * 3]
    if case.sending == "slow":
        return [whole[i : i + len(whole) // 8 + 1] for i in range(0, len(whole), len(whole) // 8 + 1)]
    return [whole]


def exchange(port: int, case: Case, patience: float = PATIENCE) -> bytes:
    """All that comes back until the server closes or a moment of silence has passed."""
    come = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        try:
            for piece in (pieces := message_of(case, port)):
                connection.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.002)
            if case.sending == "half" or any(name == "Content-Length" for name, _ in case.headers):
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(2**16):
                come += piece
                if case.sending in ("keep", "pipelined"):
                    connection.settimeout(0.1)
        except OSError:  # it takes too long, or the server has closed the connection
            pass
    return bytes(come)


class Given:
    """A connection of bytes that are there, for `http.client.HTTPResponse`."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self.data)


def check(come: bytes, case: Case) -> None:
    """Raises AssertionError for an answer of 5xx, and one that is not of HTTP or in OpenAI's form."""
    come = come.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not come:
        return  # not a whole request, or one that takes long
    if case.version not in ("1.0", "1.1") and not come.startswith(b"HTTP/"):
        return
    answer = http.client.HTTPResponse(Given(come), method=case.method)  # type: ignore[arg-type]
    answer.begin()
    assert answer.status < 500, (answer.status, come[-400:])
    assert b'"internal_error"' not in come and b"Traceback" not in come, come[-400:]
    assert SECRET.encode() not in come or answer.status == 200 or len(come) < 5000, "an error that repeats the request"
    try:
        text = answer.read() if case.method != "HEAD" else b""
    except (
        http.client.IncompleteRead
    ) as cut:  # after a body that breaks off or breaks the rules, where uvicorn does so too
        text = cut.partial
    if answer.status >= 400 and text and answer.headers.get_content_type() == "application/json":
        error = json.loads(text)["error"]
        assert (
            isinstance(error["message"], str)
            and len(error["message"]) < 2000
            and {"type", "param", "code"} <= set(error)
        ), error


def attempt(watched: Watched, case: Case) -> None:
    check(exchange(watched.port, case), case)
    watched.count()


class Watched:
    """A server in a process of its own, and its memory after the warm-up."""

    def __init__(self, process: subprocess.Popen[str], warm_up: int) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1].split("/")[0])
        self.process, self.left, self.settled = psutil.Process(process.pid), warm_up, 0

    def memory(self) -> int:
        return self.process.memory_info().rss

    def count(self) -> None:
        """One case more. Raises AssertionError where the server has ended."""
        assert self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE, "the server has ended"
        self.left -= 1
        if self.left == 0:
            self.settled = self.memory()

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    def paths(self) -> list[str]:
        return sorted(path.replace("{", "").replace("}", "") for path in self.get("/openapi.json")["paths"])


def run(cases: int, seed: int) -> Outcome:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "limner", "serve", "--port", "0", "--max-body", "2"]
        # oneDNN keeps what it compiled for each shape, 1024 of them: without a bound it would still be growing in the end
        variables = os.environ | {"OMP_NUM_THREADS": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=variables)
        try:
            watched = Watched(process, max(1, int(cases * WARM_UP)))
            paths = watched.paths()
            whole = [*(Case(path) for path in VALID if path in paths), Case("/v1/images/edits", kind=FORM)]
            valid = {(case.path, case.kind): exchange(watched.port, case, 60)[:12] for case in whole}
            outcome = try_cases(cases_of(paths), partial(attempt, watched), cases, seed)
            if set(valid.values()) != {b"HTTP/1.1 200"}:
                outcome.failures.append(f"not all that is changed is valid before: {valid}")
            end = time.monotonic() + 60
            while "limner_replies_accepted 0.0" not in metrics(watched) and time.monotonic() < end:
                time.sleep(0.2)
            growth = watched.memory() / watched.settled
            print(
                f"{watched.settled / 2**20:.0f} MiB after {WARM_UP:.0%} of it, {watched.memory() / 2**20:.0f} MiB at the end"
            )
            if growth > MAX_GROWTH:
                outcome.failures.append(f"memory grew by {growth - 1:.1%} after the first {WARM_UP:.0%} of the cases")
            if "limner_replies_accepted 0.0" not in metrics(watched):
                outcome.failures.append("replies that nobody waits for are still counted")
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                outcome.failures.append(f"the server ended with status {process.returncode}")
        finally:
            process.kill()
        outcome.failures += check_log(log.read_text())
    return outcome


def metrics(watched: Watched) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=60)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def check_log(text: str) -> list[str]:
    """What is wrong with a log: lines that are no JSON, contents of requests, errors."""
    failures = []
    if SECRET in text:
        failures.append(f"the log holds contents: {next(line for line in text.splitlines() if SECRET in line):.300}")
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            failures.append(f"a line of the log is no JSON: {line:.200}")
            continue
        if record["level"] in ("error", "critical"):
            failures.append(f"in the log: {line:.400}")
    return failures
