"""A hub on this machine: as much of its API as `huggingface_hub.snapshot_download` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants as constants


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # of connections that wait: one too many is tried again after a second


class FakeHub:
    """``models`` maps ids to folders by revision; of those in ``gated`` nothing is given, nor the files in
    ``withheld``; ``downloads`` are the files that were."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.withheld: set[str] = set()
        self.downloads: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path).strip("/").split("/")
                api, path = path[0] == "api", path[2:] if path[0] == "api" else path
                name, (verb, revision, *file) = "/".join(path[:2]), path[2:]
                if name not in hub.models:
                    return self.answer(401, {"X-Error-Code": "RepoNotFound"})
                if name in hub.gated:
                    return self.answer(403, {"X-Error-Code": "GatedRepo"})
                folder = next((f for r, f in hub.models[name].items() if revision in (r, commit(f))), None)
                if folder is None:
                    return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
                headers = {"X-Repo-Commit": commit(folder)}
                if api and verb == "revision":
                    files = [{"rfilename": str(f.relative_to(folder))} for f in folder.rglob("*") if f.is_file()]
                    info = {"id": name, "sha": commit(folder), "siblings": files}
                    return self.answer(200, headers, json.dumps(info).encode())
                if api:
                    assert verb == "tree"
                    entries = [
                        {"type": "file", "path": str(f.relative_to(folder)), "oid": digest(f), "size": f.stat().st_size}
                        for f in sorted(folder.rglob("*"))
                        if f.is_file()
                    ]
                    return self.answer(200, headers, json.dumps(entries).encode())
                assert verb == "resolve"
                wanted = folder.joinpath(*file)
                if not wanted.is_file() or wanted.name in hub.withheld:
                    return self.answer(404, headers | {"X-Error-Code": "EntryNotFound"})
                if self.command == "GET":
                    hub.downloads.append(f"{name}/{'/'.join(file)}")
                return self.answer(200, headers | {"ETag": f'"{digest(wanted)}"'}, wanted.read_bytes())

            do_HEAD = do_GET

            def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def commit(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


def digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def fake_hub(cache: Path, monkeypatch) -> Iterator[FakeHub]:
    """The hub client of this process talks to it alone, with an empty cache: its constants are read from HF_ENDPOINT, HF_HOME
    and HF_HUB_OFFLINE when it is imported."""
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        hub.stop()
