"""A server that is told to stop: what was accepted is answered, or told that it is not."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from limner.app.server.listening import listen
from limner.app.server.logs import JSONFormatter
from served import served

SECRET = "a-word-that-no-log-may-hold"


def events(text: str) -> list:
    return [line[6:] for line in text.splitlines() if line.startswith("data: ")]


def test_a_stop_lets_accepted_requests_finish_and_takes_no_more():
    with served(pace=0.03) as running, ThreadPoolExecutor(2) as pool:
        plain, stream = (
            pool.submit(running.post, running.body(SECRET, 30)),
            pool.submit(running.post, running.body(SECRET, 30, stream=True)),
        )
        running.wait(lambda: running.service.accepted == 2)
        running.stop()
        running.wait(lambda: running.service.is_stopping)
        base = f"http://127.0.0.1:{running.port}"
        refused, ready = running.post(running.body("", 1)), httpx.get(f"{base}/ready")
        for answer in (refused, ready):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
            assert int(answer.headers["retry-after"]) > 0
        assert httpx.get(f"{base}/health").status_code == 200
        assert plain.result().json()["choices"][0]["finish_reason"] == "length"
        assert events(stream.result().text)[-1] == "[DONE]"
        running.thread.join(10)
        assert running.service.accepted == 0 and not running.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            running.post(running.body("", 1))
        again = listen("127.0.0.1", running.port)
        again.close()


def test_what_is_not_done_in_time_is_told_to_its_client_and_the_log(caplog):
    with (
        served(pace=0.03, grace=0) as running,
        ThreadPoolExecutor(3) as pool,
        caplog.at_level(logging.INFO, "limner.server"),
    ):
        plain, stream = (
            pool.submit(running.post, running.body(SECRET, 120)),
            pool.submit(running.post, running.body(SECRET, 120, stream=True)),
        )
        running.wait(lambda: running.service.accepted == 2)
        running.stop()
        assert plain.result().status_code == 503
        assert plain.result().json()["error"]["code"] == "stopping" and "retry-after" in plain.result().headers
        assert json.loads(events(stream.result().text)[-1])["error"]["code"] == "stopping"
        running.thread.join(10)
        assert not running.thread.is_alive()
    assert [record.values["cut"] for record in caplog.records if record.message == "stopped"] == [2]


def test_a_second_interrupt_ends_it_at_once():
    with served(pace=0.03, grace=600) as running, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(running.post, running.body(SECRET, 120, stream=True))
        running.wait(lambda: running.service.accepted == 1)
        running.stop(signal.SIGINT)
        running.wait(lambda: running.service.is_stopping)
        time.sleep(0.2)
        assert running.service.accepted == 1 and running.thread.is_alive()
        began = time.monotonic()
        running.stop(signal.SIGINT)
        running.thread.join(10)
        assert not running.thread.is_alive() and time.monotonic() - began < 3
        assert json.loads(events(stream.result().text)[-1])["error"]["code"] == "stopping"


@pytest.mark.slow
def test_the_process_ends_with_status_0_and_logs_lines_of_json_without_contents():
    command = [sys.executable, "-m", "limner", "serve", "--port", "0", "--no-page"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        name, _, url = process.stdout.readline().split()
        body = {"model": name, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
        path = f"{url}/chat/completions?x={SECRET}"
        assert httpx.post(path, json=body, headers={"Authorization": f"Bearer {SECRET}"}, timeout=60).status_code == 200
        assert httpx.post(path, content=SECRET * 3, timeout=60).status_code == 400
        assert httpx.request(SECRET, f"{url}/{SECRET}", timeout=60).status_code == 404
        process.send_signal(signal.SIGTERM)
        said, logged = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, logged
    lines = [json.loads(line) for line in logged.splitlines()]
    assert SECRET not in said + logged
    assert {"uvicorn.error", "limner.server"} <= {line["logger"] for line in lines}
    answered = [line for line in lines if line["message"] == "answered"]
    assert [line["status"] for line in answered] == [200, 400, 404]
    assert answered[0]["path"] == "/v1/chat/completions" and answered[2]["path"] == "other"


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_in_the_log_tells_its_words_for_debugging_alone(debug):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter(error_messages=debug))
    logger = logging.Logger("limner.server")
    logger.addHandler(handler)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("a request failed")
    line = json.loads(stream.getvalue())
    assert line["error"] == "ValueError" and "test_stopping.py" in line["trace"][0]
    assert (SECRET in stream.getvalue()) == debug
