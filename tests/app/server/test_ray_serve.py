"""`limner serve --replicas 2`: one server to its clients, also when one of its processes dies (`make test-ray`)."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from PIL import Image

from helpers import psnr

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

LIMIT = 4
"""Replies that a replica takes: two that are made and two that wait"""
REPLICA = "ray::ServeReplica"


class Replicas:
    """The server's process and those under it."""

    def __init__(self, log) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "limner", "serve", "--replicas", "2", "--port", str(port)]
        command += ["--max-batch", "2", "--max-queue", str(LIMIT - 2)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ)
        self.tree = psutil.Process(self.process.pid)
        line = self.process.stdout.readline()
        assert line.startswith("2 replicas at "), line
        self.client = httpx.Client(base_url=line.split()[-1], timeout=120)

    def replicas(self) -> list[psutil.Process]:
        found = []
        for process in self.tree.children(recursive=True):
            try:
                if REPLICA in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it has just ended
                continue
        return found

    def chat(self, text: str, **fields) -> httpx.Response:
        asked = {"model": "nano", "messages": [{"role": "user", "content": text}], "seed": 5, **fields}
        return self.client.post("/chat/completions", json=asked)


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("ray") / "log"
    with path.open("w") as log:
        running = Replicas(log)
        running.log = path
        try:
            yield running
        finally:
            children = running.tree.children(recursive=True) if running.process.poll() is None else []
            running.process.kill()
            for process in children:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue


def test_the_same_seed_gives_the_same_picture_whichever_replica_answers(server):
    replies = [server.chat("draw a red cat").json()["choices"][0]["message"] for _ in range(6)]
    assert all(reply["images"] == replies[0]["images"] for reply in replies)
    logged = [line for line in server.log.read_text().splitlines() if '"answered"' in line]
    assert len({line.split(")")[0] for line in logged}) == 2, "one replica answered all"


def test_streams_come_piece_by_piece_to_their_end(server):
    asked = {
        "model": "nano",
        "messages": [{"role": "user", "content": "tell me about cats"}],
        "stream": True,
        "seed": 1,
    }
    pieces = []
    with server.client.stream("POST", "/chat/completions", json=asked) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                pieces.append((time.monotonic(), line[6:]))
    assert pieces[-1][1] == "[DONE]" and len(pieces) > 5 and pieces[-1][0] > pieces[0][0]


def test_pictures_and_responses_are_found_whichever_replica_has_them(server):
    asked = {"model": "nano", "prompt": "a red cat", "response_format": "url", "seed": 1}
    url = server.client.post("/images/generations", json=asked).json()["data"][0]["url"]
    assert {httpx.get(url).status_code for _ in range(8)} == {200}
    first = server.client.post("/responses", json={"model": "nano", "input": "draw a red cat", "seed": 1}).json()
    following = {"model": "nano", "input": "now make it blue", "previous_response_id": first["id"], "seed": 1}
    answers = [server.client.post("/responses", json=following) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {200}
    # a replica that has the conversation's cache goes on from it, and rounds otherwise than one that reads it
    drawn = [picture(part["result"]) for answer in answers for part in answer.json()["output"] if "result" in part]
    assert len(drawn) == 8 and min(psnr(drawn[0], one) for one in drawn) > 45


def test_more_than_the_replicas_take_is_refused_as_by_one_server(server):
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: server.chat("draw a red cat", num_inference_steps=40), range(24)))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429} and counts[200] >= LIMIT, counts
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "rate_limit_exceeded" and int(answer.headers["retry-after"]) >= 1


def test_a_replica_that_is_killed_under_load_costs_its_own_requests_alone_and_comes_back(server):
    ends: list[tuple[float, str]] = []
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            try:
                answer = server.chat("draw a red cat" if number % 2 else "hello", num_inference_steps=12)
                end = str(answer.status_code)
                if answer.status_code == 200:
                    assert answer.json()["choices"][0]["finish_reason"]
            except httpx.TransportError as error:
                end = type(error).__name__
            ends.append((time.monotonic(), end))

    before = {process.pid for process in server.replicas()}
    assert len(before) == 2
    with ThreadPoolExecutor(LIMIT) as pool:
        tasks = [pool.submit(work, number) for number in range(LIMIT)]
        try:
            time.sleep(4)
            killed = time.monotonic()
            os.kill(min(before), signal.SIGKILL)
            while time.monotonic() < killed + 120 and (
                len(server.replicas()) < 2 or min(before) in {process.pid for process in server.replicas()}
            ):
                time.sleep(0.5)
            time.sleep(20)  # the new one loads the model
        finally:
            over.set()
        for task in tasks:
            task.result()
    after = {process.pid for process in server.replicas()}
    assert len(after) == 2 and len(after - before) == 1
    failed = [end for _, end in ends if end != "200"]
    print(f"{len(ends)} requests, failed: {Counter(failed)}")
    assert len(failed) <= LIMIT, Counter(failed)
    assert all(not end.startswith("4") or end == "429" for end in failed)
    answered = [at for at, end in ends if end == "200" and at > killed]
    assert answered and min(answered) < killed + 20, "the other did not go on"
    assert {server.chat("hello").status_code for _ in range(6)} == {200}


def test_the_ports_that_are_not_on_the_loopback_interface_ask_for_a_token(server):
    grpc = pytest.importorskip("grpc")
    found = []
    for process in (server.tree, *server.tree.children(recursive=True)):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and "127.0.0.1" not in connection.laddr.ip:
                found.append((process.name(), connection.laddr.port))
    assert {name for name, _ in found} <= {name for name, _ in found if REPLICA.startswith(name[:15])}, found
    for _, port in found:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_stop_lets_requests_finish_and_leaves_no_process(server):
    children = server.tree.children(recursive=True)
    asked = {"model": "nano", "messages": [{"role": "user", "content": "draw a red cat"}], "stream": True, "seed": 1}
    with server.client.stream("POST", "/chat/completions", json={**asked, "num_inference_steps": 60}) as answer:
        lines = answer.iter_lines()
        next(lines)  # it was accepted
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        ready = httpx.get(str(server.client.base_url).replace("/v1/", "/ready"))
        assert ready.status_code == 503 and "retry-after" in ready.headers
        said = [line[6:] for line in lines if line.startswith("data: ")]
        assert said[-1] == "[DONE]" and any('"images"' in line for line in said), said[-1]
    assert server.process.wait(60) == 0
    assert "stopped; 0 replies were cut" in server.process.stdout.read()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    for line in server.log.read_text().splitlines():
        if "limner.server" in line:
            json.loads(line.partition(") ")[2])


def test_the_file_of_a_cluster_is_what_ray_reads(monkeypatch):
    from ray.serve.schema import ServeDeploySchema

    from limner.app.server.ray_serve import NAME, build

    monkeypatch.setenv("LIMNER_API_KEY", "a-key")
    file = Path(__file__).parents[3] / "docs/ray-serve.yaml"
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text())).applications
    assert application.import_path == "limner.app.server.ray_serve:build"
    assert [deployment.name for deployment in application.deployments] == [NAME]
    build(application.args)
