"""Pictures by address: ``data:`` and ``file:`` URIs, and http(s) URLs of hosts that were allowed."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urljoin, urlsplit

from .pixels import PictureError

MAX_BYTES = 64 * 2**20
"""Of a file that is fetched"""
TIMEOUT = 10.0
"""Seconds for connecting, and for each answer of the host"""
DEADLINE = 60.0
"""Seconds for a whole file"""
MAX_REDIRECTS = 5
ADDRESS = re.compile(r"(?:data|file):|[a-z][a-z0-9+.-]+://", re.IGNORECASE)
HOST = re.compile(r"(?:\*\.)?[^\s/:@*\[\]]+(?::\d+)?|\[[0-9a-f:.]+\](?::\d+)?", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a string is a URI rather than a path."""
    return ADDRESS.match(text) is not None


def data_of_uri(uri: str) -> bytes:
    """The bytes of a ``data:`` URI. Raises ValueError for one that is broken."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise PictureError(f"{uri:.60} is no data URI: one begins as in data:image/png;base64,")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    text = re.sub(r"\s", "", unquote(body)).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{uri:.60}… is broken: {error}") from None


def path_of_uri(uri: str) -> Path:
    """The path of a ``file:`` URI. Raises ValueError for one of another machine."""
    from urllib.request import url2pathname

    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise PictureError(f"{uri:.200} is a file of another machine; one of this begins with file:///")
    return Path(url2pathname(parts.path))


def check_hosts(names: str | Sequence[str] | None, option: str = "allow_urls") -> tuple[str, ...]:
    """Names of hosts, in lower case. Raises ValueError, which names the ``option``, for what is none.

    ``example.com`` allows that host at any port, ``example.com:8000`` at one, ``*.example.com`` all hosts under it, ``*`` all.
    """
    hosts = (names,) if isinstance(names, str) else tuple(names or ())
    for host in hosts:
        if not isinstance(host, str) or (host != "*" and not HOST.fullmatch(host)):
            raise ValueError(f"{option} names hosts, such as example.com or *.example.com, not {host!r}")
    return tuple(host.lower() for host in hosts)


def is_allowed(host: str, port: int, hosts: Sequence[str]) -> bool:
    """Whether a host, in lower case and without brackets, is among those of `check_hosts` at this port."""
    bare = f"[{host}]" if ":" in host else host
    return bool({bare, f"{bare}:{port}", "*"} & set(hosts)) or any(
        pattern.startswith("*.") and host.endswith(pattern[1:]) for pattern in hosts
    )


def fetch(url: str, allow_urls: Sequence[str]) -> bytes:
    """The bytes behind an http(s) URL of one of the hosts in ``allow_urls`` (`check_hosts`), as are those that it redirects to.

    A name that leads to an address inside a network (127.0.0.1, 10.0.0.1, 169.254.169.254, …) is refused before anything is
    asked there: who wants that allows the address itself, or "localhost". Proxies are not used. Raises ValueError for a host
    that was not allowed, an answer other than a file of at most `MAX_BYTES`, and one that does not come in time.
    """
    end = time.monotonic() + DEADLINE
    for _ in range(MAX_REDIRECTS + 1):
        parts = check_url(url, allow_urls)
        try:
            answer = request(url, parts, end)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise PictureError(f"cannot fetch {shown(url)}: {error or type(error).__name__}") from None
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise PictureError(f"{shown(url)} is redirected more than {MAX_REDIRECTS} times")


def shown(url: str) -> str:
    """A URL in an error: without its query, which may hold a key."""
    return url.partition("?")[0][:200]


def check_url(url: str, allow_urls: Sequence[str]) -> SplitResult:
    """Raises ValueError for a URL that is not http(s), broken, or of a host that was not allowed."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise PictureError(f"{shown(url)} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise PictureError(f"{shown(url)}: only http and https URLs are fetched; download it and give its path")
    if parts.username is not None:
        raise PictureError(f"a URL of {host} with a password is not fetched: download it and give its path")
    if not is_allowed(host, port or (443 if parts.scheme == "https" else 80), check_hosts(allow_urls)):
        raise PictureError(
            f"the URL {shown(url)} is not fetched: allow its host by limner.load(…, allow_urls=({host!r},)) or "
            f"--allow-url {host}, or download it and give its path"
        )
    return parts


def request(url: str, parts: SplitResult, end: float) -> bytes | str:
    """The body of an answer, or where it is redirected to. Raises ValueError for any other answer, OSError and HTTPException."""
    host = str(parts.hostname)
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
    )
    try:
        connection.connect()
        check_public(host, connection.sock.getpeername()[0])
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "limner", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and (target := response.getheader("Location")):
            return target
        if response.status != 200:
            raise PictureError(f"cannot fetch {shown(url)}: the host answers {response.status} {response.reason}")
        data = bytearray()
        while piece := response.read1(2**16):
            data += piece
            if len(data) > MAX_BYTES:
                raise PictureError(f"{shown(url)} is more than {MAX_BYTES:,} bytes, the limit of what is fetched")
            if time.monotonic() > end:
                raise PictureError(f"{shown(url)} takes more than {DEADLINE:g} s to fetch")
        if response.length:  # the connection ended before
            raise PictureError(f"{shown(url)} is cut short: {response.length:,} bytes of it are missing")
        return bytes(data)
    finally:
        connection.close()


def check_public(host: str, address: str) -> None:
    """Raises ValueError where the name of a host led to an address inside a network."""
    if host in ("localhost", address.partition("%")[0]):
        return
    found = ipaddress.ip_address(address.partition("%")[0])
    if not (getattr(found, "ipv4_mapped", None) or found).is_global:
        raise PictureError(
            f"{host} is {address}, an address inside a network: allow the address itself to fetch from it"
        )
