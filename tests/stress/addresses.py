"""Addresses that must not be fetched: inside networks, in every spelling, by name, by redirection, and files of this machine.

Every host is allowed by ``*``, so that only what is checked of addresses stands between a message and this machine. Canaries
listen at some of its ports and serve a picture; an audit hook sees every connection and every file that is opened, and ends
connections to other machines before they are made.
"""

from __future__ import annotations

import io
import ipaddress
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, quote, urlsplit

from PIL import Image

from cases import Outcome
from limner.app.server.errors import APIError
from limner.app.server.history import History
from limner.app.server.options import ServerOptions
from limner.app.server.store import Store
from limner.inference.images import PictureLimits
from limner.inference.inputs import load_message_images

TITLE = "addresses that must not be fetched (private, names of them, redirects, spellings, files): 0 connections"
CASES = 897
LIMITS = PictureLimits(local_files=False)
STORE = Store(60)
PUBLIC = "93.184.215.14"
PRIVATE = """
127.0.0.1 127.0.0.2 127.8.8.8 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1
192.168.255.254 169.254.169.254 169.254.170.2 169.254.1.1 100.64.0.1 100.100.100.200 100.127.255.254 192.0.0.1 192.0.0.192
192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.254 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
168.63.129.16
::1 :: ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 ::127.0.0.1 ::10.0.0.1 64:ff9b::127.0.0.1
64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::10.0.0.1 2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe:: 2001:0:7f00:1::
2001:0:4136:e378:8000:63bf:80ff:fffe 2001:db8::1 2001:10::1 2001:20::1 3fff::1 5f00::1 100::1 fc00::1 fd00::1 fd00:ec2::254
fe80::1 fe80::5efe:127.0.0.1 fec0::1 ff02::1 ff0e::1
""".split()
SPELLINGS = """
2130706433 017700000001 0x7f000001 0X7F000001 127.1 127.0.1 127.00.00.01 0127.0.0.1 0177.0.0.1 0177.0.0.01 0x7f.0.0.1 0x7f.1
127.0x1 0x7f.0x0.0x0.0x1 00127.0.0.1 127.0.0.01 127.0.0.1. 127.0.0.1.. 127.1. 0 0x0 00000 0.0 localhost LOCALHOST localhost.
LocalHost. localhost.. [::1] [0:0:0:0:0:0:0:1] [0000::0001] [::0001] [::ffff:7f00:1] [::FFFF:127.0.0.1] [::1%25lo] [::1%lo]
[fe80::1%25eth0] [::127.0.0.1] [::] [[::1]] [::1 ::1 [127.0.0.1] [v1.x] %31%32%37.0.0.1 127%2e0%2e0%2e1 %6cocalhost
localhost%00 localhost%2eevil.example localhost%00.evil.example １２７.0.0.1 127。0。0。1 127．0．0．1 ①②⑦.⓪.⓪.①
ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518 169.16689662
3232235521 10.1 0x0a000001 012.1 4294967296 2130706433. 256.0.0.1 127.0.0.1.5 1.2.3 -127.0.0.1 127.0.0.1- 0x 0x.0x
""".split()
"""Of hosts: what C libraries read as a private address, and what is none"""


@dataclass
class World:
    """Where canaries listen, what names lead to, and what was met."""

    canary: int = 0
    other: int = 0
    server: int = 0
    picture: str = ""
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    """The answers of the name server, call by call; the last one stays"""
    met: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)


WORLD = World()
_real = socket.getaddrinfo
_watching = False


def resolve(host: str | bytes, port: int, *_: object, **__: object) -> list[tuple]:
    """As getaddrinfo, without a network: names of the world, localhost and numbers in every spelling of the C library."""
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        name = "127.0.0.1"
    if name not in WORLD.names:
        return _real(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answers = WORLD.names[name]
    found = answers[min(WORLD.calls[name], len(answers) - 1)]
    WORLD.calls[name] += 1
    return [entry for address in found for entry in _real(address, port, type=socket.SOCK_STREAM)]


def hook(event: str, args: tuple) -> None:
    """Counts connections and opened pictures; connections to other machines are not made."""
    if not _watching:
        return
    if event == "socket.connect" and isinstance(args[1], tuple):
        address, port = ipaddress.ip_address(args[1][0]), args[1][1]
        if str(address) == PUBLIC:
            raise ConnectionRefusedError("no network here")
        if (str(address), port) != ("127.0.0.1", WORLD.server):
            WORLD.met.append(f"connected to {args[1]}")
            if not address.is_loopback:
                raise ConnectionRefusedError("no network here")
    elif event == "open" and "canary.png" in str(args[0]):
        WORLD.met.append(f"opened {args[0]!r}")


class Redirects(BaseHTTPRequestHandler):
    """``/?to=…&code=…&steps=…`` redirects there after so many steps, ``/canary`` is a picture."""

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if "to" in asked:
            steps = int(asked.get("steps", ["0"])[0])
            again = f"/?steps={steps - 1}&to={quote(asked['to'][0], safe='')}"
            place = again if steps else asked["to"][0]
            self.send_response(int(asked.get("code", ["302"])[0]))
            # as bytes: a header line may hold what the library would not send
            self._headers_buffer.append(b"Location: " + place.encode() + b"\r\nContent-Length: 0\r\n")
            self.end_headers()
            return
        if self.server.server_port == WORLD.server and self.path not in ("/canary", "/page"):
            return self.send_error(404)
        if self.server.server_port != WORLD.server:
            WORLD.met.append(f"asked the canary at {self.server.server_address} for {self.path}")
        page = self.path.startswith("/page")
        data = b'<meta http-equiv="refresh" content="0; url=file:///etc/hostname">' if page else png()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if page else "image/png")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Canary(ThreadingHTTPServer):
    """Counts every connection, whether anything is asked over it or not."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Redirects)

    def verify_request(self, request: object, address: tuple) -> bool:
        if self.server_port != WORLD.server:
            WORLD.met.append(f"a connection to {self.server_address}")
        return True


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def world() -> Iterator[None]:
    """The canaries, the server of redirections, the name server and the hook."""
    global _watching
    with ExitStack() as stack:
        servers = [stack.enter_context(Canary(host)) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "::1")]
        for server in servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
        WORLD.server, WORLD.canary, WORLD.other, on_six = (server.server_port for server in servers)
        WORLD.names["six.example"] = [["::1"]]
        WORLD.canary_six = on_six
        folder = stack.enter_context(TemporaryDirectory())
        WORLD.picture = f"{folder}/canary.png"
        Path(WORLD.picture).write_bytes(png())
        socket.getaddrinfo = resolve
        sys.addaudithook(hook)
        try:
            yield
        finally:
            _watching = False
            socket.getaddrinfo = _real


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def private_urls() -> Iterator[str]:
    """Addresses inside networks as they are, in odd spellings, and by names that lead there."""
    port = WORLD.canary
    for index, address in enumerate(PRIVATE):
        scheme = ("http", "https")[index % 2]
        yield f"{scheme}://{bracketed(address)}:{WORLD.canary_six if address == '::1' else port}/canary"
        name = f"private{index}.example"
        WORLD.names[name] = [[address]]
        yield f"{'https' if scheme == 'http' else 'http'}://{name}:{port}/canary"
        WORLD.names[f"both{index}.example"] = [[PUBLIC, address]]
        yield f"http://both{index}.example:{port}/canary"
        WORLD.names[f"rebind{index}.example"] = [[PUBLIC], [address]]
        yield f"http://rebind{index}.example:{port}/canary"
    for spelling in SPELLINGS:
        yield f"http://{spelling}:{port}/canary"
    WORLD.names |= {
        "xn--bcher-kva.example": [["127.0.0.1"]],
        "a_b.example": [["127.0.0.1"]],
        "a.localhost": [["127.0.0.1"]],
    }
    for name in (
        "bücher.example",
        "BÜCHER.example",
        "a_b.example",
        "a.localhost",
        "PRIVATE0.EXAMPLE",
        "private0.example.",
    ):
        yield f"http://{name}:{port}/canary"


def confusing_urls() -> Iterator[str]:
    """URLs whose host readers of URLs take for different ones, and schemes that are not fetched."""
    here, public = f"127.0.0.1:{WORLD.canary}", "public.example"
    WORLD.names[public] = [[PUBLIC]]
    for odd in (
        f"http://{public}@{here}/ http://me:secret@{here}/ http://{public}:80@{here}/ http://@{here}/ http://:@{here}/",
        f"http://{here}#@{public}/ http://{here}?@{public}/ http://{public}%40{here}/ http://{public}%2f@{here}/",
        f"HTTP://{here}/ hTTp://LOCALHOST:{WORLD.canary}/ http:{here}/ http:/{here}/ http:///{here}/ http:////{here}/ //{here}/",
        f"http://{here}:{WORLD.other}/ http://127.0.0.1:+{WORLD.canary}/ http://127.0.0.1:-1/ http://127.0.0.1:0/",
        f"http://127.0.0.1:99999/ http://127.0.0.1:0{WORLD.canary}/ http://127.0.0.1:0x50/ http://{here}%20/ http://127.0.0.1:/",
        f"url:http://{here}/ view-source:http://{here}/ jar:http://{here}!/ feed:http://{here}/ blob:http://{here}/x",
        f"ftp://{here}/ gopher://{here}/_GET dict://{here}/ ldap://{here}/ tftp://{here}/ ws://{here}/ wss://{here}/ sftp://{here}/",
        f"smb://{here}/ rtsp://{here}/ netdoc:///etc/hostname s3://bucket/x hf://user/x git+ssh://{here}/ http+unix://{here}/",
        "javascript:fetch('/') about:blank data:text/html,<img> data:text/html;base64,PGltZz4= data:, data:image/png,x",
        "http:// https:// http://? http://# http://. http://.. http://@ http://[] http://[ http://] http://% http://:80/",
    ):
        yield from odd.split()
    for odd in (
        f"http://{public}\\@{here}/",
        f"http://{here}\\@{public}/",
        f"http:\\\\{here}\\",
        f"http://{here}\\.{public}/",
        f"http://127.0.0\n.1:{WORLD.canary}/",
        f"http://local\thost:{WORLD.canary}/",
        f"ht\ntp://{here}/",
        f" http://{here}/",
        f"\x00http://{here}/",
        f"http://{here} @{public}/",
        f"http://{here}/\r\nHost: {public}",
        f"http://{public}/ HTTP/1.1\r\nHost: {here}",
        f"http://{here}/\u2028",
        f"http://127.0.0.1\u200b:{WORLD.canary}/",
        f"http://local\u00adhost:{WORLD.canary}/",
        f"http://{'a' * 300}.example/",
        f"http://{'a.' * 200}example/",
    ):
        yield odd


def redirects(urls: list[str]) -> Iterator[str]:
    """URLs of the server, which is allowed, that lead to others, at once or after some steps."""
    base = f"http://127.0.0.1:{WORLD.server}"
    for index, url in enumerate(urls):
        code, steps = (301, 302, 303, 307, 308)[index % 5], (0, 0, 1, 4)[index % 4]
        yield f"{base}/?code={code}&steps={steps}&to={quote(url, safe='')}"
    for steps in (6, 7, 20):  # to what may be fetched, but too far away
        yield f"{base}/?steps={steps}&to=/canary"
    yield f"{base}/page"


def local_files() -> Iterator[str]:
    """A picture that is here, by path and URI."""
    path = WORLD.picture
    name, relative = os.path.basename(path), os.path.relpath(path)
    yield from (
        path,
        relative,
        f"{path}/",
        f"/{path}",
        f"./{relative}",
        f"/proc/self/root{path}",
        f"~/../..{path}",
        name,
    )
    for head in (
        "file://",
        "FILE://",
        "file:",
        "File:",
        "file://localhost",
        "file://127.0.0.1",
        "file:///",
        "file:////",
    ):
        yield f"{head}{path}"
    yield from (
        f"file://{path.replace('canary', '%63anary')}",
        f"file://{path}#x",
        f"file://{path}?x",
        f" file://{path}",
    )
    yield from (
        f"file:\\\\{path}",
        f"\\\\127.0.0.1\\{path}",
        f"file://[::1]{path}",
        "~root/x",
        "~",
        ".",
        "/dev/zero",
        "/dev/stdin",
    )


def forms(value: str) -> list[dict]:
    """A part of a message that holds an address, in each form that is read."""
    return [
        {"type": "image_url", "image_url": {"url": value}},
        {"type": "input_image", "image_url": value},
        {"type": "image", "image": value},
        {"type": "image", "url": value},
        {"type": "image", "path": value},
        {"type": "image", "source": {"type": "url", "url": value}},
        {"image": value},
    ]


def all_parts() -> list[dict]:
    """Every case, in one form each; local files in all of them."""
    urls = [*private_urls(), *confusing_urls()]
    straight = [value for value in urls if "both" not in value and "rebind" not in value]
    parts = [forms(value)[index % 7] for index, value in enumerate([*urls, *redirects(straight)])]
    parts += [form for value in local_files() for form in forms(value)]
    parts += [{"type": "image", "base64": value} for value in (WORLD.picture, f"file://{WORLD.picture}", "x")]
    parts += [{"type": "image", "image": WORLD.picture, "url": "data:,"}, {"type": "picture", "image": WORLD.picture}]
    return parts


def check(part: dict) -> None:
    """AssertionError unless it is refused, both as a message of Python and as the server reads it."""
    hosts = ("*", f"127.0.0.1:{WORLD.server}")
    source = next((part[name] for name in ("url", "path", "image", "image_url") if name in part), None)
    source = source["url"] if isinstance(source, dict) else source
    refused(lambda: load_message_images([{"role": "user", "content": [part]}], hosts, LIMITS))
    if isinstance(source, str):
        refused(lambda: History(STORE, ServerOptions(allow_url=hosts)).load_image(source, "messages.0"))


def refused(read: Callable[[], object]) -> None:
    """AssertionError unless what is read is refused in a line, and nothing is connected to or opened."""
    global _watching
    WORLD.met.clear()
    WORLD.calls.clear()
    _watching = True
    try:
        read()
        raise AssertionError("it was read")
    except (ValueError, APIError) as error:
        assert "\n" not in str(error) and len(str(error)) < 800, f"not one line: {error!s:.300}"
        assert "secret" not in str(error), "a password is shown"
    finally:
        _watching = False
    assert not WORLD.met, "; ".join(WORLD.met)


def run(cases: int, seed: int) -> Outcome:
    outcome = Outcome()
    with world():
        works = {"role": "user", "content": [forms(f"http://127.0.0.1:{WORLD.server}/?to=/canary")[0]]}
        load_message_images([works], ("*", f"127.0.0.1:{WORLD.server}"), limits=LIMITS)
        for port in (WORLD.canary, WORLD.other):  # a canary is heard
            WORLD.met.clear()
            load_message_images(
                [{"role": "user", "content": [forms(f"http://127.0.0.1:{port}/canary")[0]]}], "127.0.0.1"
            )
            assert WORLD.met, "the canary is not heard"
        parts = all_parts()
        assert len(parts) == CASES, f"{len(parts)} cases"
        for part in Random(seed).sample(parts, cases):
            outcome.tried += 1
            try:
                check(part)
            except Exception as error:  # noqa: BLE001 - whatever a case brings about is what is counted
                outcome.failures.append(f"{part!r:.300}: {type(error).__name__}: {error!s:.300}")
    return outcome
