"""Pictures by address: ``data:`` and ``file:`` URIs, and http(s) URLs of hosts that were allowed."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from .pixels import PictureError

MAX_BYTES = 64 * 2**20
"""Of a file that is fetched"""
TIMEOUT = 10.0
"""Seconds for connecting, and for each answer of the host"""
DEADLINE = 60.0
"""Seconds for a whole file"""
MAX_REDIRECTS = 5
ADDRESS = re.compile(r"(?:data|file):|[a-z][a-z0-9+.-]+://", re.IGNORECASE)
ODD = re.compile(r"[\x00-\x20\x7f\\]")
"""What no URL holds and what readers of URLs take in different ways: some leave line breaks out, some take \\ for /"""
NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")
"""A host that C libraries read as an IPv4 address, in whatever spelling: 127.1, 2130706433, 0x7f.0.0.1"""
UNICAST = ipaddress.ip_network("2000::/3")
"""The part of IPv6 that the internet uses"""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 as seen from networks of IPv6 alone"""
INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
)
"""What some versions of Python count as global and is no place of pictures: the host of Azure's machines and Oracle's metadata,
tunnels of IPv6 through IPv4 (6to4, Teredo), which hold an IPv4 address of any kind, and addresses for documentation"""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Target:
    """What is asked, and where."""

    scheme: str
    host: str
    """In lower case and ASCII, without brackets and without a dot at the end"""
    port: int
    path: str
    own: bool
    """Whether the host is an address or "localhost" that was allowed by itself, which may lie inside a network"""


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
    return tuple(in_ascii(host) for host in hosts)


def in_ascii(host: str) -> str:
    """A host in lower case, an international name as name servers know it. Raises ValueError for a name that cannot be."""
    try:
        return host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise PictureError(f"{host!r:.100} is no name of a host: {error}") from None


def is_allowed(host: str, port: int, hosts: Sequence[str]) -> bool:
    """Whether a host, in lower case and without brackets, is among those of `check_hosts` at this port."""
    bare = f"[{host}]" if ":" in host else host
    return bool({bare, f"{bare}:{port}", "*"} & set(hosts)) or any(
        pattern.startswith("*.") and host.endswith(pattern[1:]) for pattern in hosts
    )


def fetch(url: str, allow_urls: Sequence[str], max_bytes: int | None = None) -> bytes:
    """The bytes behind an http(s) URL of one of the hosts in ``allow_urls`` (`check_hosts`), as are those that it redirects to.

    A name that leads to an address inside a network (127.0.0.1, 10.0.0.1, 169.254.169.254, …) is refused, and no connection is
    made: a name is looked up once, and the addresses that were checked are those connected to. Who wants such an address allows
    it itself, or "localhost"; ``*`` does not allow them. Proxies are not used. Raises ValueError for a host that was not allowed,
    an answer other than a file of at most ``max_bytes`` (at most and by default `MAX_BYTES`), and one that does not come in time.
    """
    most = MAX_BYTES if max_bytes is None else min(max_bytes, MAX_BYTES)
    end = time.monotonic() + DEADLINE
    for _ in range(MAX_REDIRECTS + 1):
        target = check_url(url, allow_urls)
        try:
            answer = request(url, target, most, end)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            check_time(url, end)
            raise PictureError(f"cannot fetch {shown(url)}: {error or type(error).__name__}") from None
        if isinstance(answer, bytes):
            return answer
        if ODD.search(answer):
            raise PictureError(f"{shown(url)} is redirected to what is no URL: {answer!r:.100}")
        before, url = url, urljoin(url, answer)
        if target.scheme == "https" and url[:5].lower() == "http:":
            raise PictureError(f"{shown(before)} is redirected from https to http, which anyone on the way can change")
    raise PictureError(f"{shown(url)} is redirected more than {MAX_REDIRECTS} times")


def shown(url: str) -> str:
    """A URL in an error: without its query, which may hold a key."""
    return url.partition("?")[0][:200]


def check_time(url: str, end: float) -> None:
    """Raises ValueError after ``end``, of `time.monotonic`."""
    if time.monotonic() > end:
        raise PictureError(f"{shown(url)} takes more than {DEADLINE:g} s to fetch")


def check_url(url: str, allow_urls: Sequence[str]) -> Target:
    """Where a URL leads. Raises ValueError for one that is not http(s), broken, or of a host that was not allowed."""
    if ODD.search(url):
        raise PictureError(f"{shown(url)!r} is no URL: it holds a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        host, port = in_ascii(parts.hostname or "").removesuffix("."), parts.port
    except PictureError:
        raise
    except ValueError as error:
        raise PictureError(f"{shown(url)} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise PictureError(f"{shown(url)}: only http and https URLs are fetched; download it and give its path")
    if "@" in parts.netloc:
        raise PictureError(f"a URL of {host:.100} with a password is not fetched: download it and give its path")
    literal = literal_address(host)
    host = host if literal is None else str(literal)
    if (literal is None and not NAME.fullmatch(host)) or port == 0:
        raise PictureError(f"{shown(url)} is no URL: {parts.netloc!r:.100} is not a host and its port")
    port = port or (443 if parts.scheme == "https" else 80)
    allowed = check_hosts(allow_urls)
    if not is_allowed(host, port, allowed):
        name = f"[{host}]" if ":" in host else host
        raise PictureError(
            f"the URL {shown(url)} is not fetched: allow its host by limner.load(…, allow_urls=({name!r},)) or "
            f"--allow-url {name}, or download it and give its path"
        )
    named = [name for name in allowed if "*" not in name]
    own = (literal is not None or host == "localhost") and is_allowed(host, port, named)
    return Target(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), own)


def literal_address(host: str) -> Address | None:
    """The address that a host is; None for a name. Raises ValueError for an IPv4 address that is not written as 127.0.0.1."""
    if ":" not in host and not NUMBER.fullmatch(host):
        return None
    try:
        if "%" in host:
            raise ValueError("an address with a zone leads into a network")
        return ipaddress.ip_address(host)
    except ValueError as error:
        raise PictureError(f"{host!r:.100} is no host: {error}") from None


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet, by its own and by the IPv4 address that it holds."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in INSIDE)


def addresses_of(target: Target) -> list[tuple[int, tuple[str, int]]]:
    """(family, address) of all that the host of a target is called, each of them checked. Raises ValueError for one inside a
    network, and OSError for a name that is not known."""
    found: list[tuple[int, tuple[str, int]]] = []
    for family, _, _, _, place in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(place[0])
        own = target.own and (address.is_loopback if target.host == "localhost" else str(address) == target.host)
        if not own and not is_public(address):
            raise PictureError(
                f"{target.host} is {address}, an address inside a network: allow the address itself to fetch from it"
            )
        found.append((family, (str(address), target.port)))
    return found


def connect(target: Target, end: float) -> socket.socket:
    """A connection to the first address of a target that answers. Raises ValueError as `addresses_of`, and OSError."""
    problem = OSError(f"{target.host} has no address")
    for family, address in addresses_of(target):
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(max(0.001, min(TIMEOUT, end - time.monotonic())))
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


@contextmanager
def opened(target: Target, end: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to a target that ends by itself at ``end``: each read has a time limit of its own, to which a host that sends
    a byte now and then never lets it come."""
    kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    connection = kind(target.host, target.port)
    connection.sock = stream = connect(target, end)
    try:
        if target.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = stream = context.wrap_socket(
                stream, server_hostname=target.host, do_handshake_on_connect=False
            )
        watch = Timer(max(0.0, end - time.monotonic()), cut, (stream,))
        watch.daemon = True
        watch.start()
        try:
            if isinstance(stream, ssl.SSLSocket):
                stream.do_handshake()
            yield connection
        finally:
            watch.cancel()
    finally:
        connection.close()


def cut(stream: socket.socket) -> None:
    """Ends what another thread reads or writes. Not `ssl.SSLSocket.shutdown`, after which a connection goes on in the clear."""
    with suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def request(url: str, target: Target, most: int, end: float) -> bytes | str:
    """The body of an answer, or where it is redirected to. Raises ValueError for any other answer, OSError and HTTPException."""
    with opened(target, end) as connection:
        connection.request("GET", target.path, headers={"User-Agent": "limner", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and (place := response.getheader("Location")):
            return place
        if response.status != 200:
            raise PictureError(f"cannot fetch {shown(url)}: the host answers {response.status} {response.reason}")
        data = bytearray()
        while piece := response.read1(2**16):
            data += piece
            if len(data) > most:
                raise PictureError(f"{shown(url)} is more than {most:,} bytes, the limit of what is fetched")
            check_time(url, end)
        check_time(url, end)
        if response.length:  # the connection ended before
            raise PictureError(f"{shown(url)} is cut short: {response.length:,} bytes of it are missing")
        return bytes(data)
