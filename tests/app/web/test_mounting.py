"""The page in the server: when it is there, what it loads, and what it does not give away."""

import re
import socket
import threading
import time

import httpx
import pytest

from limner.app.web import mounting
from served import served

WITHIN = 60
"""Seconds in which the page is there, on a machine that has much else to do"""


def ready(running):
    """The page when it is there."""
    end = time.monotonic() + WITHIN
    while (reply := running.http.get(f"{running.root}/ui/")).status_code == 503:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert reply.status_code == 200
    return reply


@pytest.fixture(scope="module")
def running():
    with served(no_page=False, max_body=1) as made:
        ready(made)
        yield made


def test_the_server_answers_before_the_page_is_there(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def failing(*_):
        begun.set()
        assert go_on.wait(WITHIN)
        raise RuntimeError("no gradio today")

    monkeypatch.setattr(mounting, "made", failing)
    with served(no_page=False) as running:
        assert begun.wait(WITHIN)
        assert running.http.post(f"{running.url}/chat/completions", json=running.body("hello", 2)).status_code == 200
        waiting = running.http.get(f"{running.root}/ui/", headers={"accept-language": "ko"})
        assert waiting.status_code == 503 and waiting.headers["retry-after"] == "1"
        assert '<meta http-equiv="refresh" content="1">' in waiting.text and "잠시만요" in waiting.text
        go_on.set()
        running.wait(lambda: "refresh" not in running.http.get(f"{running.root}/ui/").text)
        assert "The API works" in running.http.get(f"{running.root}/ui/").text


def test_there_is_none_where_none_is_wanted():
    with served() as running:
        assert running.http.get(f"{running.root}/ui/").status_code == 404


def test_it_is_there_and_its_address_is_short(running):
    page = ready(running)
    assert "Limner" in page.text
    for path in ("/", "/ui"):
        assert running.http.get(f"{running.root}{path}", follow_redirects=True).url == page.url


def test_what_it_loads_is_the_server_s_own(running):
    page = ready(running)
    fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', page.text)
    assert fetched and not [address for address in fetched if "//" in address.replace(running.root, "")]
    config = running.http.get(f"{running.root}/ui/config").json()
    assert config["analytics_enabled"] is False
    assert not [sheet for sheet in config["stylesheets"] or [] if "//" in sheet]
    styles = [f"{running.root}/ui/{name}" for name in ("theme.css", "own/page.css", "own/panel.css", "own/picture.css")]
    for style in styles:
        reply = running.http.get(style)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/css")
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", reply.text)
    hosts = set(re.findall(r"https?://([\w.-]+)", str([component["props"] for component in config["components"]])))
    assert hosts <= {"127.0.0.1", "www.w3.org"}, "components that would fetch something"


def test_every_text_of_its_components_is_in_every_language(running):
    config = running.http.get(f"{running.root}/ui/config").json()
    keys = set(re.findall(r"'key': '(\w+)'", str(config["components"]))) | set(
        re.findall(r'"key": "(\w+)"', str(config["components"]))
    )
    assert {"new", "save", "load", "settings", "placeholder", "seed"} <= keys
    for language in ("en", "zh-CN", "zh-TW", "ko"):
        assert keys <= set(config["i18n_translations"][language])


@pytest.mark.parametrize(
    "path", ["/etc/hostname", __file__, "pyproject.toml", "../pyproject.toml", "file:///etc/hostname"]
)
def test_the_disk_is_closed(running, path):
    for route in ("file=", "file/"):
        reply = running.http.get(f"{running.root}/ui/gradio_api/{route}{path}")
        assert reply.status_code in (403, 404), reply.text[:100]


def test_uploads_are_limited(running):
    def upload(size):
        return running.http.post(f"{running.root}/ui/gradio_api/upload", files={"files": ("a.png", bytes(size))})

    assert upload(1000).status_code == 200
    assert upload(2 << 20).status_code == 413


def test_no_other_site_is_asked(running, monkeypatch):
    """gradio fetches what a client names in place of a file that was uploaded, or sends the browser there."""
    for path in ("proxy=http://pictures.example/x.png", "file=https://pictures.example/x.png"):
        assert running.http.get(f"{running.root}/ui/gradio_api/{path}").status_code == 404
    looked_up, look_up = [], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: looked_up.append(host) or look_up(host, *rest)
    )
    config = running.http.get(f"{running.root}/ui/config").json()
    (box,) = (component["id"] for component in config["components"] if component["props"].get("elem_id") == "box")
    (submit,) = (each for each in config["dependencies"] if [box, "submit"] in each["targets"])
    picture = {"path": "http://pictures.example/x.png", "meta": {"_type": "gradio.FileData"}}
    data = [None] * len(submit["inputs"])
    data[:2] = "key en", {"text": "look", "files": [picture]}
    asked = {"data": data, "fn_index": submit["id"], "session_hash": "a-client"}
    api = f"{running.root}/ui/gradio_api/queue"
    assert running.http.post(f"{api}/join", json=asked).status_code == 200
    with running.http.stream("GET", f"{api}/data", params={"session_hash": "a-client"}) as events:
        told = next(line for line in events.iter_lines() if "process_completed" in line)
    assert '"success":false' in told.replace(" ", "")
    assert "pictures.example" not in looked_up


def test_pictures_and_conversations_are_behind_keys(running):
    page: mounting.PageMount = running.app.state.page
    conversation = page.conversations.open()
    conversation.chat.options = {"images": "force", "max_new_tokens": 2, "num_inference_steps": 2}
    conversation.chat.say("draw")
    image = conversation.chat.last_picture()
    name, root = conversation.name(image), f"{running.root}/ui"
    reply = running.http.get(f"{root}/pictures/{conversation.key}/{name}.png")
    assert reply.content.startswith(b"\x89PNG") and b"parameters" in reply.content
    assert running.http.get(f"{root}/pictures/{conversation.key}/{name}.json").json()["prompt"] == "draw"
    saved = running.http.get(f"{root}/conversations/{conversation.key}.zip")
    assert saved.content.startswith(b"PK") and "conversation.zip" in saved.headers["content-disposition"]
    other = page.conversations.open()
    for path in (f"pictures/{other.key}/{name}.png", f"pictures/key/{name}.png", "conversations/key.zip"):
        assert running.http.get(f"{root}/{path}").status_code == 404
    assert running.http.get(f"{root}/examples/4/0.png").content.startswith(b"\x89PNG")
    assert [running.http.get(f"{root}/examples/{path}.png").status_code for path in ("0/0", "999/0", "-1/0")] == [
        404
    ] * 3


def test_an_open_tab_does_not_hold_up_a_server_that_stops():
    with served(no_page=False, api_key=("sk-1",)) as running:
        running.http.auth = ("anyone", "sk-1")
        ready(running)
        assert httpx.get(f"{running.root}/ui/").status_code == 401
        with running.http.stream("GET", f"{running.root}/ui/gradio_api/heartbeat/tab") as beating:
            lines = beating.iter_lines()  # which closes the stream when it is gone
            assert next(lines) == "data: ALIVE"
            began = time.monotonic()
            running.stop()
            running.thread.join(10)
        assert not running.thread.is_alive() and time.monotonic() - began < 4
