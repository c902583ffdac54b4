"""Who may talk to the server: which hosts, web pages and keys, and how many bytes a request may have.

Everything here is plain ASGI: Starlette's BaseHTTPMiddleware would keep a streamed answer from seeing that the client left.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...inference.addresses import check_hosts, is_allowed

MAX_BODY = 64 * 2**20
"""Bytes of a request"""
LINGER = 5.0
"""Seconds for which the rest of a request that was refused is read"""
LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "[::1]")
"""What the Host header of a request to this machine says"""
ALL_ADDRESSES = ("0.0.0.0", "[::]")
"""What a server that listens on every address of its machine is bound to"""
OPEN_PATHS = ("/health", "/ready")
"""Answered without a key: what asks for them is a load balancer or a container's health check"""
OPEN_FOLDERS = ("/pictures/",)
"""Paths below these are answered without a key: their names cannot be guessed and expire"""
KEY_VARIABLE = "LIMNER_API_KEY"
KEY = re.compile(r"[!-~]+")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", re.IGNORECASE)
HOST_HEADER = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/:@\[\]]+)(?::(\d{1,5}))?", re.IGNORECASE)


def protect(
    app: ASGIApp,
    *,
    api_keys: Sequence[str] = (),
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    max_body: int = MAX_BODY,
    open_paths: Sequence[str] = OPEN_PATHS,
    open_folders: Sequence[str] = OPEN_FOLDERS,
) -> ASGIApp:
    """An ASGI application that asks ``app`` only what these rules let through, and answers the rest in OpenAI's error shape.

    - ``hosts`` are what the Host header may name beside `LOOPBACK`: the host that the server is bound to and the names it is
      called by, ``name``, ``name:port``, ``*.name`` or ``*``. One of `ALL_ADDRESSES` among them stands for every address written
      as a number, which no page can take over. Without this check any web page could point a name of its own at this machine
      and would then count as a page of this server (DNS rebinding).
    - ``origins`` are the web pages (``https://example.com``, or ``*``) that may ask it from another origin; they get CORS
      headers. A request without an Origin header does not come from a foreign page.
    - ``api_keys``: if there are any, one has to be sent, as ``Authorization: Bearer KEY`` or, by a browser's login, as the
      password of any user. Only ``open_paths`` and what lies in ``open_folders`` are read without.
    - ``max_body`` are the bytes that a request may have, counted as they come.

    Raises ValueError for keys, hosts and origins that cannot be, and for any page allowed without a key.
    """
    keys, pages = check_keys(api_keys), check_origins(origins)
    names = check_hosts([bracketed(host) or "0.0.0.0" for host in hosts], "hosts")
    if "*" in pages and not keys:
        raise ValueError("the origin * lets any web page use this server: name the pages, or set a key")
    app = BodyLimit(app, max_body)
    if keys:
        app = Keys(app, keys, open_paths, open_folders)
    if pages:  # outside of the keys, which a preflight request cannot carry
        app = CORSMiddleware(
            app, pages, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"], allow_private_network=True
        )
    return Hosts(Origins(app, pages), (*LOOPBACK, *names))


def check_listen(host: str, api_keys: Sequence[str], insecure: bool) -> None:
    """Raises ValueError for listening where other machines reach it, without a key, unless ``insecure``."""
    if insecure or api_keys or is_loopback(host):
        return
    raise ValueError(
        f"{host or 'every address'} can be reached from other machines: set a key by --api-key or {KEY_VARIABLE}, listen on "
        "127.0.0.1, or say --insecure to let everyone who reaches it use it"
    )


def find_keys(given: Sequence[str]) -> tuple[str, ...]:
    """The keys of ``--api-key``, or that of the environment where none is given. Raises ValueError as `check_keys`."""
    return check_keys(given or [key for key in (os.environ.get(KEY_VARIABLE),) if key])


def check_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError for keys that no header can carry. The message does not show them."""
    if isinstance(keys, str) or not all(isinstance(key, str) and KEY.fullmatch(key) for key in keys):
        raise ValueError("an API key is one or more visible ASCII characters without spaces, and keys are a list")
    return tuple(keys)


def check_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Origins as browsers send them. Raises ValueError for what is none, such as a URL with a path."""
    found = []
    for origin in origins:
        bare = origin.removesuffix("/").lower()
        if origin != "*" and not ORIGIN.fullmatch(bare):
            raise ValueError(
                f"an origin is a scheme and a host, such as https://example.com, or *, not {origin!r:.100}"
            )
        found.append(bare)
    return tuple(found)


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to ``host`` is reached from its own machine alone."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bracketed(host: str) -> str:
    """A host as URLs write it: IPv6 addresses in brackets."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def refusal(
    status: int, code: str, message: str, headers: Sequence[tuple[str, str]] = (), kind: str = "invalid_request_error"
) -> JSONResponse:
    """An answer in OpenAI's error shape."""
    answer = JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)
    for name, value in headers:
        answer.headers.append(name, value)
    return answer


async def refuse(answer: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an answer, to a websocket too."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
    else:
        await answer(scope, receive, send)


def only(scope: Scope, name: str) -> str | None:
    """The header that a request has once; None for none, and for several, of which others might read another one."""
    values = Headers(scope=scope).getlist(name)
    return values[0].strip() if len(values) == 1 else None


def is_foreign(scope: Scope) -> bool:
    """Whether a web page of another origin asks. Schemes are not compared: a proxy before the server may speak TLS for it."""
    origins = Headers(scope=scope).getlist("origin")
    if not origins:
        return False
    try:
        netloc = urlsplit(origins[0]).netloc.lower()
    except ValueError:
        return True
    return len(origins) > 1 or not netloc or netloc != (only(scope, "host") or "").lower()


class Hosts:
    """Lets requests through whose Host header names one of ``hosts``."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = hosts
        self.any_address = bool(set(hosts) & set(ALL_ADDRESSES))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.allows(only(scope, "host") or ""):
            return await self.app(scope, receive, send)
        host = (only(scope, "host") or "")[:100]
        message = f"the Host header {host!r} is not a name of this server; start it with --allow-host NAME to add one"
        await refuse(refusal(403, "host_not_allowed", message), scope, receive, send)

    def allows(self, header: str) -> bool:
        """Whether a Host header names this server."""
        found = HOST_HEADER.fullmatch(header)
        if not found:
            return False
        host = found[1].lower().rstrip(".")
        if is_allowed(host.strip("[]"), int(found[2] or 80), self.hosts):
            return True
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return self.any_address


class Origins:
    """Lets requests through that no foreign web page sends, or one of ``origins``."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not is_foreign(scope) or "*" in self.origins:
            return await self.app(scope, receive, send)
        origin = (only(scope, "origin") or "").lower()
        if origin in self.origins:
            return await self.app(scope, receive, send)
        message = f"the web page {origin[:100]!r} may not use this server; start it with --allow-origin URL to let it"
        await refuse(refusal(403, "origin_not_allowed", message), scope, receive, send)


class Keys:
    """Lets requests through that carry one of ``keys``, and those that read what is open."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], open_paths: Sequence[str], open_folders: Sequence[str]
    ) -> None:
        self.app = app
        self.digests = [digest(key.encode()) for key in keys]
        self.open_paths = frozenset(open_paths)
        self.open_folders = tuple(open_folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.is_open(scope) or self.knows(sent_key(scope)):
            return await self.app(scope, receive, send)
        message = (
            "no API key was sent, or a wrong one: send Authorization: Bearer KEY, or log in with it as the password"
        )
        # a header each: not every client reads two challenges from one
        challenges = [("WWW-Authenticate", 'Bearer realm="limner"'), ("WWW-Authenticate", 'Basic realm="limner"')]
        await refuse(refusal(401, "invalid_api_key", message, challenges), scope, receive, send)

    def is_open(self, scope: Scope) -> bool:
        """Whether a request only reads what needs no key."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return reads and (path in self.open_paths or path.startswith(self.open_folders))

    def knows(self, key: bytes | None) -> bool:
        """Compares with every key and in a time that does not depend on them."""
        sent = digest(key or b"")
        return any(
            [hmac.compare_digest(sent, known) for known in self.digests]
        )  # a list: `any` would stop at the first


def digest(key: bytes) -> bytes:
    """Of a length that does not depend on the key's."""
    return hashlib.sha256(key).digest()


def sent_key(scope: Scope) -> bytes | None:
    """The key of a request's Authorization header.

    A login is taken from pages of this server alone: a browser sends it by itself, with what a foreign page asks, too.
    """
    scheme, _, value = (only(scope, "authorization") or "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("latin-1")  # as the header's bytes were read
    if scheme.lower() == "basic" and not is_foreign(scope):
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


class BodyLimit:
    """Answers 413 to requests of more than ``most`` bytes: at once where they say their length, otherwise as they come."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = only(scope, "content-length") or ""
        if length.isdecimal() and len(length) < 20 and int(length) > self.most:
            return await self.refuse(receive, send)
        taken, started, refused = 0, False, False

        async def count() -> Message:
            nonlocal taken, refused
            if refused:
                return {"type": "http.disconnect"}
            message = await receive()
            taken += len(message.get("body", b""))
            if taken <= self.most:
                return message
            refused = True
            if not started:
                await self.refuse(receive, send, message)
            return {"type": "http.disconnect"}  # what the application knows to end at

        async def answer(message: Message) -> None:
            nonlocal started
            if started or not refused:
                started = True
                await send(message)

        try:
            await self.app(scope, count, answer)
        except ClientDisconnect:
            if not refused:
                raise

    async def refuse(self, receive: Receive, send: Send, message: Message | None = None) -> None:
        """Sends 413, reads what the client still sends for up to `LINGER` seconds and ends the connection.

        Were it ended at once, what is on its way would be answered by a reset, upon which clients lose the answer.
        """
        said = f"the request is larger than {self.most:,} bytes, the limit of this server"
        response = refusal(413, "request_too_large", said, [("Connection", "close")])
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with anyio.move_on_after(LINGER):
            while message is None or message.get("more_body"):
                message = await receive()
        await send({"type": "http.response.body"})
