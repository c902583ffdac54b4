"""Options of the server. Nothing here imports torch: the command line makes its flags of these fields before it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ServerOptions:
    """What a server is told when it starts. Raises ValueError for values that make no sense."""

    host: str = "127.0.0.1"
    """address to listen at; one beyond this machine needs a key"""
    port: int = 8000
    """0 takes one that is free"""
    api_key: tuple[str, ...] = ()
    """a key that clients must send; repeatable, or in LIMNER_API_KEY"""
    insecure: bool = False
    """listen beyond this machine without a key"""
    allow_url: tuple[str, ...] = ()
    """a host from which pictures in messages are fetched; repeatable"""
    allow_host: tuple[str, ...] = ()
    """a name by which clients may call this server, beside those of this machine; repeatable"""
    public_url: str = ""
    """what clients call this server behind a proxy, such as https://example.com/limner; URLs of pictures begin so"""
    allow_origin: tuple[str, ...] = ()
    """a site whose pages may call this server; repeatable"""
    max_queue: int = 64
    """replies that may wait; a request for more is answered 429"""
    max_batch: int = 64
    """replies that are written and drawn at the same time"""
    max_body: int = 64
    """MiB of a request"""
    max_megapixels: float = 32.0
    """of a picture in a request"""
    max_pictures: int = 16
    """in a request"""
    max_replies: int = 10
    """to a request (``n``)"""
    expire: int = 3600
    """seconds that the URL of a picture and a stored response last"""
    store: Path | None = None
    """folder of these; servers that share it know each other's; by default one that goes with the server"""
    no_metadata: bool = False
    """pictures do not say what they were made of"""
    no_page: bool = False
    """no page at /ui, for which limner[ui] is needed"""
    grace: int = 30
    """seconds that a server which is told to stop gives to requests"""
    replicas: int = 1
    """processes that each hold the model; more than one needs limner[ray]"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """least level of what is logged; debug tells what errors say, in which a client's words may be"""

    def __post_init__(self) -> None:
        bounds = {
            "port": 0,
            "max_queue": 0,
            "max_batch": 1,
            "max_body": 1,
            "max_pictures": 0,
            "max_replies": 1,
            "expire": 1,
            "grace": 0,
            "replicas": 1,
        }
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ValueError(f"public_url is {self.public_url!r}; it begins with http:// or https://")
        if self.port > 65535:
            raise ValueError(f"port is {self.port}; the last one is 65535")
        if not self.max_megapixels > 0:
            raise ValueError(f"max_megapixels is {self.max_megapixels}; it must be above 0")
