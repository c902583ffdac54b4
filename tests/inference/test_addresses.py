"""Pictures behind URLs: only from hosts that were allowed, only so many bytes, only in time."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import limner
from helpers import make_limner
from limner.app.cli import main as cli
from limner.inference import addresses
from limner.inference.addresses import check_hosts, check_url, fetch
from limner.inference.images import load_image


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(stream, "PNG")
    return stream.getvalue()


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self):
        data, place = png(), self.path.partition("?")[0]
        self.server.asked.append(self.path)
        targets = {
            "/moved": "/a.png?x=1",
            "/loop": "/loop",
            "/elsewhere": "http://localhost:9/a.png",
            "/ftp": "ftp://x/",
        }
        if place in targets:
            self.send_response(302)
            self.send_header("Location", targets[place])
            self.end_headers()
            return
        self.send_response(200 if place != "/gone.png" else 404)
        if place != "/endless":
            self.send_header("Content-Length", str(len(data) + (9 if place == "/cut.png" else 0)))
        self.end_headers()
        try:
            self.wfile.write(data)
            while place in ("/endless", "/slow"):
                self.wfile.write(bytes(1000))
                time.sleep(0.02)
        except OSError:  # who asked has had enough
            return

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as running:
        running.asked = []
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def url(server):
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_port}"


def test_an_allowed_host_is_asked(url, server):
    for hosts in (["127.0.0.1"], "127.0.0.1", (f"127.0.0.1:{server.server_port}",)):
        assert load_image(f"{url}/a.png", hosts).size == (32, 16)
    assert load_image(f"{url}/moved", ["127.0.0.1"]).size == (32, 16)
    assert server.asked[-2:] == ["/moved", "/a.png?x=1"]
    assert load_image(f"http://localhost:{server.server_port}/a.png", ["LocalHost"]).size == (32, 16)


def test_no_other_is(url, server):
    for hosts in ((), ["example.com"], ["127.0.0.1:1"], ["27.0.0.1"]):
        with pytest.raises(ValueError, match="allow its host") as error:
            load_image(f"{url}/a.png?key=secret", hosts)
        assert "secret" not in str(error.value)
    assert not server.asked
    for place, said in {
        "/elsewhere": "the URL http://localhost:9/a.png is not fetched: allow its host",
        "/ftp": "only http and https",
        "/loop": "redirected more than 5 times",
    }.items():
        with pytest.raises(ValueError, match=said):
            load_image(url + place, ["127.0.0.1"])


def test_a_name_that_leads_into_a_network_is_refused_before_it_is_asked(url, server, monkeypatch):
    """As a name server might answer for any name."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(ValueError, match=r"example\.com is 127\.0\.0\.1, an address inside a network"):
        fetch(f"http://example.com:{server.server_port}/a.png", ["example.com"])
    assert not server.asked


def test_what_does_not_come_as_a_file_of_bounded_size_in_time(url, monkeypatch):
    hosts = ["127.0.0.1"]
    with pytest.raises(ValueError, match=r"the host answers 404 Not Found"):
        load_image(f"{url}/gone.png", hosts)
    with pytest.raises(ValueError, match="9 bytes of it are missing"):
        load_image(f"{url}/cut.png", hosts)
    monkeypatch.setattr(addresses, "MAX_BYTES", 5000)
    with pytest.raises(ValueError, match="more than 5,000 bytes"):
        load_image(f"{url}/endless", hosts)
    monkeypatch.setattr(addresses, "MAX_BYTES", 10**9)
    monkeypatch.setattr(addresses, "DEADLINE", 0.1)
    with pytest.raises(ValueError, match=r"takes more than 0\.1 s"):
        load_image(f"{url}/endless", hosts)
    monkeypatch.setattr(addresses, "DEADLINE", 60)
    monkeypatch.setattr(addresses, "TIMEOUT", 0.1)
    for wrong in ("http://127.0.0.1:9/a.png", "https" + url[4:] + "/a.png"):
        with pytest.raises(ValueError, match="cannot fetch http"):
            load_image(wrong, hosts)


@pytest.mark.parametrize(
    ("hosts", "allowed", "refused"),
    [
        (["example.com"], ["http://example.com/", "https://EXAMPLE.com.:8443/x"], ["http://a.example.com/", "http://example.org/"]),
        (["example.com:443"], ["https://example.com/"], ["http://example.com/", "https://example.com:8443/"]),
        (["*.example.com"], ["https://a.b.example.com/"], ["https://example.com/", "https://evilexample.com/"]),
        (["[::1]"], ["http://[::1]:8000/"], ["http://[::2]/"]),
        (["a.com"], [], ["http://a.com@b.com/", "http://b.com\\@a.com/", "http://user:secret@a.com/", "http:a.com", "http:///a.com"]),
    ],
)  # fmt: skip
def test_which_hosts_are_allowed(hosts, allowed, refused):
    for url in allowed:
        check_url(url, hosts)
    for url in refused:
        with pytest.raises(ValueError) as error:
            check_url(url, hosts)
        assert "secret" not in str(error.value)


def test_hosts_are_checked_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr("limner.inference.model.Limner.from_pretrained", lambda *_: pytest.fail("loaded"))
    for wrong in (["https://example.com/"], ["a b"], [3], [""], "exa*mple.com"):
        with pytest.raises(ValueError, match="allow_urls names hosts"):
            limner.load("nano", allow_urls=wrong)
    assert check_hosts(None) == () and check_hosts("Example.com") == ("example.com",)


def test_a_model_fetches_from_its_own_hosts(url, tmp_path, capsys):
    model, part = make_limner(), {"type": "image_url", "image_url": {"url": f"{url}/a.png"}}
    options = {"images": "never", "max_new_tokens": 1}
    for ask in (
        lambda: model.generate([{"role": "user", "content": [part]}], **options),
        lambda: model.chat(**options).say("what?", f"{url}/a.png"),
        lambda: limner.PlainGeneration(model).prepare([{"role": "user", "content": [part]}]),
    ):
        model.allow_urls = ()
        with pytest.raises(ValueError, match="allow its host"):
            ask()
        model.allow_urls = ("127.0.0.1",)
        ask()
    model.save_pretrained(tmp_path / "model")
    loaded = limner.load(tmp_path / "model", allow_urls="127.0.0.1")
    assert loaded.generate([{"role": "user", "content": [part]}], **options)
    words = ["describe", f"{url}/a.png", "--model", str(tmp_path / "model"), "--max-new-tokens", "1"]
    assert cli.main(words) == 2
    assert "--allow-url 127.0.0.1" in capsys.readouterr().err
    assert cli.main([*words, "--allow-url", "127.0.0.1"]) == 0
