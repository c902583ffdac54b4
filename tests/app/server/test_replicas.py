"""Servers that stand beside each other: one folder of what is kept, a router before them, options of a cluster."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from limner.app.cli.options import Loading
from limner.app.server.options import ServerOptions
from limner.app.server.ray_serve import build, interrupted, run
from served import served

ROUTER = {
    "no_stop_trim": False,
    "ignore_eos": False,
    "continue_final_message": False,
    "skip_special_tokens": True,
    "separate_reasoning": True,
    "stream_reasoning": True,
    "return_hidden_states": False,
    "include_reasoning": True,
    "logprobs": False,
}
"""What vllm-router 0.1.17 adds to the body of a chat completion"""


def test_what_a_router_adds_is_taken(server, client):
    answer = server.http.post(f"{server.url}/chat/completions", json=server.body("hello", 2) | ROUTER)
    assert answer.status_code == 200, answer.text
    assert "include_reasoning" in answer.headers["x-limner-ignored"]
    for name in ("ignore_eos", "skip_special_tokens", "continue_final_message"):
        refused = server.http.post(
            f"{server.url}/chat/completions", json=server.body("hello", 2) | {name: not ROUTER[name]}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


def test_servers_that_share_a_folder_know_each_others_pictures_and_responses(tmp_path):
    with served(store=tmp_path / "kept") as one, served(store=tmp_path / "kept") as other:
        asked = {"model": one.model.name, "prompt": "a cat", "response_format": "url"}
        url = one.http.post(f"{one.url}/images/generations", json=asked).json()["data"][0]["url"]
        assert httpx.get(url.replace(one.root, other.root)).content == httpx.get(url).content
        first = one.http.post(f"{one.url}/responses", json={"model": one.model.name, "input": "a cat"}).json()
        following = {"model": one.model.name, "input": "and a dog", "previous_response_id": first["id"]}
        answer = other.http.post(f"{other.url}/responses", json=following)
        assert answer.status_code == 200 and answer.json()["previous_response_id"] == first["id"]
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0
    assert any((tmp_path / "kept").iterdir()), "a folder that was named stays"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"models": "nano", "store": "x"}, "no option models"),
        ({"model": "nano", "api_key": ["k"]}, "store: name a folder"),
        ({"store": "x"}, "set a key"),
        ({"store": "x", "insecure": True, "max_queue": -1}, "max_queue is -1"),
    ],
)
def test_mistakes_in_the_file_of_a_cluster_are_said_before_anything_starts(arguments, said, monkeypatch):
    monkeypatch.delenv("LIMNER_API_KEY", raising=False)
    with pytest.raises(ValueError, match=said):
        build(arguments)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is there")
def test_replicas_without_ray_are_a_line_that_says_what_to_install():
    command = [sys.executable, "-m", "limner", "serve", "--replicas", "2", "--port", "0"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr == "limner: this needs the package ray: pip install 'limner[ray]'\n"


def test_a_mistyped_model_is_said_before_any_replica_starts():
    with pytest.raises(ValueError, match="no such model folder: /nowhere"):
        run(Loading(model="/nowhere"), ServerOptions(port=0, replicas=2))


def test_the_first_signal_stops_and_the_second_interrupt_ends():
    stopped = threading.Event()
    handle = interrupted(stopped)
    handle(signal.SIGINT, None)
    assert stopped.is_set()
    handle(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        handle(signal.SIGINT, None)
