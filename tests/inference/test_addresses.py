"""Pictures behind URLs: only from hosts that were allowed, only so many bytes, only in time."""

import base64
import io
import ipaddress
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import limner
from helpers import make_limner
from limner.app.cli import main as cli
from limner.inference import addresses
from limner.inference.addresses import check_hosts, check_url, fetch, is_public
from limner.inference.images import PictureLimits, load_image
from limner.inference.inputs import load_message_images

CERTIFICATE = Path(__file__).parents[1] / "data/example_com.pem"
"""Of example.com by itself, with its key"""


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(stream, "PNG")
    return stream.getvalue()


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self):
        data, place = png(), self.path.partition("?")[0]
        self.server.asked.append(self.path)
        self.server.called.append(self.headers["Host"])
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
        running.asked, running.called = [], []
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


@pytest.fixture
def names(monkeypatch):
    """What names lead to, call by call, as a name server might answer for any name; the last answer stays."""
    names = {}

    def resolve(host, port, *_, **__):
        found = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


@pytest.fixture
def connected(monkeypatch):
    """The addresses that were connected to."""
    connected, connect = [], socket.socket.connect

    def note(self, address):
        connected.append(address[0])
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError("no network here")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    return connected


def test_a_name_that_leads_into_a_network_is_refused_before_anything_is_connected(server, names, connected):
    names["example.com"] = [["127.0.0.1"]]
    names["both.example"] = [["8.8.8.8", "127.0.0.1"]]
    names["rebinding.example"] = [["8.8.8.8"], ["127.0.0.1"]]
    server.asked.clear()
    for hosts in (["*"], ["*.example", "example.com"], ["both.example", "example.com"]):
        for name in ("both.example", "example.com"):
            with pytest.raises(ValueError, match=rf"{name} is 127\.0\.0\.1, an address inside a network"):
                fetch(f"http://{name}:{server.server_port}/a.png", hosts)
    assert connected == []
    with pytest.raises(ValueError, match="no network here"):  # looked up once
        fetch(f"http://rebinding.example:{server.server_port}/a.png", ["*"])
    assert connected == ["8.8.8.8"] and not server.asked


def test_the_address_that_was_checked_is_asked_by_the_name(server, names, connected, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", lambda address: str(address) in ("127.0.0.1", "8.8.8.8"))
    names["example.com"] = [["8.8.8.8", "127.0.0.1"], ["10.0.0.1"]]
    assert fetch(f"http://Example.com.:{server.server_port}/a.png", ["*"]) == png()
    assert connected == ["8.8.8.8", "127.0.0.1"] and server.called[-1] == f"example.com:{server.server_port}"
    names["xn--bcher-kva.example"] = [["127.0.0.1"]]
    for allowed in ("bücher.example", "*.example", "xn--bcher-kva.example"):
        assert fetch(f"http://BÜCHER.example:{server.server_port}/a.png", [allowed]) == png()
    names["localhost"] = [["8.8.8.8"]]
    with pytest.raises(ValueError, match="no network here"):
        fetch(f"http://localhost:{server.server_port}/a.png", ["localhost"])


def test_of_a_private_address_it_has_to_be_named_itself(url, server):
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ValueError, match=r"is 127\.0\.0\.1, an address inside a network"):
            load_image(f"http://{host}:{server.server_port}/a.png", ["*"])
    assert not server.asked
    assert load_image(f"{url}/a.png", ["*", f"127.0.0.1:{server.server_port}"]).size == (32, 16)


def test_what_localhost_is_lies_on_this_machine(server, names, connected):
    names["localhost"] = [["10.0.0.1"]]
    with pytest.raises(ValueError, match=r"localhost is 10\.0\.0\.1"):
        fetch(f"http://localhost:{server.server_port}/a.png", ["localhost"])
    assert not connected


def test_the_certificate_is_that_of_the_name(names, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", lambda _: True)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    context, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(CERTIFICATE)
    context.sni_callback = lambda _, name, __: asked.append(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as running:
        running.asked, running.called, running.daemon_threads = [], [], True
        running.handle_error = lambda *_: None
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        for name in ("example.com", "other.example"):
            names[name] = [["127.0.0.1"]]
        at = f"https://example.com:{running.server_port}/a.png"
        with pytest.raises(ValueError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(at, ["*"])
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        with pytest.raises(ValueError, match=r"not valid for 'other\.example'"):
            fetch(at.replace("example.com", "other.example"), ["*"])
        assert not running.asked
        assert fetch(at, ["*"]) == png()
        assert asked == ["example.com", "other.example", "example.com"]
        assert running.called == [f"example.com:{running.server_port}"]
        running.shutdown()


def test_no_redirection_leaves_what_is_encrypted(monkeypatch):
    places = {"https://example.com/": "HTTP://example.com/a.png", "https://example.com/up": "https://example.com/b.png"}
    monkeypatch.setattr(addresses, "request", lambda url, *_: places.get(url, b"bytes"))
    with pytest.raises(ValueError, match="redirected from https to http"):
        fetch("https://example.com/", ["example.com"])
    assert fetch("https://example.com/up", ["example.com"]) == b"bytes"


def test_a_host_that_answers_a_byte_at_a_time_is_left_in_time(monkeypatch):
    """Each byte comes before a read's own time is over."""
    monkeypatch.setattr(addresses, "DEADLINE", 0.3)

    def drip(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(ValueError, match=r"takes more than 0\.3 s"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/", ["127.0.0.1"])
        assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("public", "addresses"),
    [
        (True, "8.8.8.8 1.1.1.1 172.32.0.1 100.128.0.1 2606:4700::1111 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8"),
        (False, "127.0.0.1 10.0.0.1 172.31.0.1 192.168.0.1 169.254.1.1 100.64.0.1 192.0.0.192 0.0.0.0 224.0.0.1 168.63.129.16"),
        (False, "::1 :: fe80::1 fd00:: ff0e::1 ::ffff:10.0.0.1 ::8.8.8.8 64:ff9b::a00:1 64:ff9b:1::1 2002:808:808:: 2001:1::1"),
    ],
)  # fmt: skip
def test_public_addresses(public, addresses):
    for address in addresses.split():
        assert is_public(ipaddress.ip_address(address)) is public, address


def test_a_server_narrows_what_messages_may_hold(url, tmp_path):
    file, uri = tmp_path / "a.png", "data:image/png;base64," + base64.b64encode(png()).decode()
    file.write_bytes(png())

    def load(*sources, **limits):
        content = [{"type": "image_url", "image_url": {"url": str(source)}} for source in sources]
        messages = [{"role": "user", "content": content[:1]}, {"role": "user", "content": ["and", *content[1:]]}]
        return load_message_images(messages, ["127.0.0.1"], PictureLimits(**limits))

    every = (file, file.as_uri(), uri, f"{url}/a.png")
    for limits in ({}, {"max_bytes": len(png()), "max_pixels": 32 * 16, "max_pictures": 4}):
        assert load(*every, **limits)[1]["content"][1]["image"].size == (32, 16)
    for source in (file, file.as_uri(), "missing.png", f"FILE://{file}", f"file://x{file}", f"x\n{file}"):
        with pytest.raises(
            ValueError, match=r"^('.*' is not read: a picture is a data URI|file:.*another machine)"
        ) as error:
            load(uri, source, local_files=False)
        assert "\n" not in str(error.value)
    assert load(uri, f"{url}/a.png", local_files=False)
    for source, more in ((uri, "bytes"), (f"{url}/a.png", "bytes"), (uri, "pixels"), (file, "pixels")):
        with pytest.raises(ValueError, match=rf"more than .*{more}|{more}, more than the limit of"):
            load(source, uri, **{f"max_{more}": 50})
    with pytest.raises(ValueError, match="hold 4 pictures; at most 3 are read"):
        load(*["missing.png"] * 4, max_pictures=3)


def test_what_does_not_come_as_a_file_of_bounded_size_in_time(url, monkeypatch):
    hosts = ["127.0.0.1"]
    with pytest.raises(ValueError, match=r"the host answers 404 Not Found"):
        load_image(f"{url}/gone.png", hosts)
    with pytest.raises(ValueError, match="9 bytes of it are missing"):
        load_image(f"{url}/cut.png", hosts)
    monkeypatch.setattr(addresses, "MAX_BYTES", 5000)
    with pytest.raises(ValueError, match="more than 5,000 bytes"):
        load_image(f"{url}/endless", hosts)
    for given, least in ((3000, "3,000"), (10**6, "5,000")):
        with pytest.raises(ValueError, match=f"more than {least} bytes"):
            fetch(f"{url}/endless", hosts, given)
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
