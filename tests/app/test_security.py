"""Who may talk to the server: keys, hosts, web pages, and how much they may send."""

import asyncio
import base64
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from limner.app.server import security
from limner.app.server.security import check_listen, check_origins, find_keys, is_foreign, is_loopback, protect

KEY = "sk-limner-1"
PATHS = ("/health", "/ready", "/pictures/x.png", "/v1/models", "/ui/", "/metrics", "/openapi.json", "/echo", "/read")


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


class Read:
    """Answers before it has read the request."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            await send({"type": "http.response.body", "body": b".", "more_body": True})
        await send({"type": "http.response.body"})


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.path)


SPECIAL = {"/echo": echo, "/read": Read()}
APP = Starlette(
    routes=[Route(path, SPECIAL.get(path, plain), methods=["GET", "POST", "DELETE"]) for path in PATHS],
)


def ask(method, url, rules, *, root_path="", **options):
    """The answer of a protected application, without a server."""

    async def send():
        transport = httpx.ASGITransport(protect(APP, **rules), root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await asyncio.wait_for(client.request(method, url, **options), 20)

    return asyncio.run(send())


def refused(answer, status, code):
    """The message of an answer in OpenAI's error shape."""
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert error["type"] == "invalid_request_error" and error["param"] is None
    return error["message"]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def login(key, user="me"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


def test_without_a_key_all_of_it_is_open_and_with_one_what_is_named():
    for path in PATHS:
        assert ask("GET", path, {}).status_code == 200
    closed = {path for path in PATHS if ask("GET", path, {"api_keys": [KEY]}).status_code == 401}
    assert closed == set(PATHS) - {"/health", "/ready", "/pictures/x.png"}
    for path in ("/health", "/pictures/x.png"):  # to be read, not to be written
        assert ask("POST", path, {"api_keys": [KEY]}).status_code == 401
        assert ask("HEAD", path, {"api_keys": [KEY]}).status_code == 200
    for path in ("/health/", "/healthy", "/files", "//health", "/HEALTH", "/unknown"):
        assert ask("GET", path, {"api_keys": [KEY]}).status_code == 401
    for path, status in (("/x/health", 200), ("/x/pictures/x.png", 200), ("/x/v1/models", 401)):  # behind a proxy
        assert ask("GET", path, {"api_keys": [KEY]}, root_path="/x").status_code == status
    assert ask("GET", "/files/v1/models", {"api_keys": [KEY]}, root_path="/files").status_code == 401
    assert ask("GET", "/metrics", {"api_keys": [KEY], "open_paths": ["/metrics"]}).status_code == 200
    assert ask("GET", "/ui/", {"api_keys": [KEY], "open_folders": ["/ui/"]}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("sk-limner"),
        bearer(KEY + "1"),
        bearer(KEY.upper()),
        bearer(f"{KEY} {KEY}"),
        {"Authorization": KEY},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": "Basic ****"},
        {"Authorization": f"Basic {KEY}"},
        login("wrong"),
        login("", user=KEY),
        [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")],
        {"Authorization": "Bearer ключ".encode()},
    ],
)
def test_a_wrong_key_is_told_from_none_by_nothing(headers):
    answer = ask("GET", "/v1/models", {"api_keys": [KEY, "second"]}, headers=headers)
    assert "Authorization: Bearer KEY" in refused(answer, 401, "invalid_api_key") and KEY not in answer.text
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="limner"', 'Basic realm="limner"']


def test_each_key_opens_as_a_token_and_as_a_password():
    rules = {"api_keys": [KEY, "a:b"]}
    for headers in (bearer(KEY), bearer("a:b"), login(KEY), login("a:b"), {"authorization": f"bEARER  {KEY} "}):
        assert ask("GET", "/ui/", rules, headers=headers).status_code == 200
    # a browser adds its login to what another page asks
    foreign, rules = {"Origin": "https://other.example"}, {**rules, "origins": ["https://other.example"]}
    assert ask("POST", "/echo", rules, headers={**foreign, **bearer(KEY)}).status_code == 200
    refused(ask("POST", "/echo", rules, headers={**foreign, **login(KEY)}), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("hosts", "allowed", "foreign"),
    [
        ([], ["localhost:8000", "LOCALHOST.", "127.0.0.1", "[::1]:8", "a.localhost"], ["evil.example", "127.0.0.2", "0.0.0.0"]),
        (["127.0.0.1"], ["127.0.0.1:8000"], ["localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "127.1"]),
        (["10.0.0.7", "gpu.example"], ["10.0.0.7:8000", "gpu.example", "localhost"], ["a.gpu.example", "10.0.0.8"]),
        (["0.0.0.0"], ["192.168.1.4:8000", "[fe80::1]:8000"], ["evil.example", "256.1.1.1", "10.1"]),
        (["::"], ["192.168.1.4:8000", "[fe80::1]"], ["evil.example"]),
        ([""], ["192.168.1.4:8000"], ["evil.example"]),
        (["fd00::1"], ["[fd00::1]:8000"], ["[fd00::2]:8000"]),
        (["gpu.example:8000"], ["gpu.example:8000"], ["gpu.example", "gpu.example:80"]),
        (["*.gpu.example"], ["a.gpu.example:1"], ["gpu.example", "agpu.example"]),
        (["*"], ["anything.example"], ["", "a b", "evil.example:x", "a@b", "a/b", "[::1", "::1"]),
    ],
)  # fmt: skip
def test_hosts(hosts, allowed, foreign):
    for host in allowed:
        assert ask("GET", "/v1/models", {"hosts": hosts}, headers={"Host": host}).status_code == 200, host
    for host in foreign:
        answer = ask("GET", "/health", {"hosts": hosts}, headers={"Host": host})
        assert "--allow-host" in refused(answer, 403, "host_not_allowed"), host
    twice = [("Host", "localhost"), ("Host", "evil.example")]
    refused(ask("GET", "/health", {"hosts": hosts}, headers=twice), 403, "host_not_allowed")


def test_pages_of_other_origins_are_refused():
    rules = {"origins": ["https://Chat.example/", "http://localhost:3000"], "hosts": ["gpu.example"]}
    for origin in (
        "http://localhost:8000",
        "HTTP://LOCALHOST:8000",
        "https://localhost:8000",
    ):  # its own, and behind TLS
        for method in ("GET", "POST", "DELETE"):
            assert ask(method, "/echo", rules, headers={"Origin": origin}).status_code == 200
    assert ask("POST", "/echo", rules).status_code == 200  # no browser
    for origin in ("http://localhost", "http://localhost:8001", "http://evil.example", "null", "", "http://[", "x"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = ask(method, "/echo", rules, headers={"Origin": origin})
            assert "--allow-origin" in refused(answer, 403, "origin_not_allowed"), origin
            assert "access-control-allow-origin" not in answer.headers
    twice = [("Origin", "http://localhost:8000"), ("Origin", "http://evil.example")]
    refused(ask("POST", "/echo", rules, headers=twice), 403, "origin_not_allowed")
    assert is_foreign({"type": "http", "headers": [(b"origin", b"null")]})
    # a name that leads here is no page of this server
    rebound = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
    refused(ask("POST", "/echo", rules, headers=rebound), 403, "host_not_allowed")


def test_an_allowed_page_gets_cors_headers_even_with_an_error():
    rules = {"origins": ["https://Chat.example/"], "api_keys": [KEY]}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-title"}
    answer = ask("OPTIONS", "/echo", rules, headers={"Origin": "https://chat.example", **asked})  # without a key
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert "authorization, x-title" in answer.headers["access-control-allow-headers"]
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    for headers, status in ((bearer(KEY), 200), ({}, 401)):
        answer = ask("POST", "/echo", rules, headers={"Origin": "https://chat.example", **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in answer.headers
    answer = ask("POST", "/echo", {**rules, "origins": ["*"]}, headers={"Origin": "null", **bearer(KEY)})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"


def test_websockets_obey_the_same():
    """As a server drives them; refused before they are accepted."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    def connect(headers, extensions, **rules):
        sent.clear()
        headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "websocket", "path": "/ui/", "headers": headers, "extensions": extensions}
        asyncio.run(protect(app, **rules)(scope, receive, send))
        return [message["type"] for message in sent]

    own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert connect(own, {}) == ["websocket.accept"]
    assert connect({**own, "authorization": f"Bearer {KEY}"}, {}, api_keys=[KEY]) == ["websocket.accept"]
    for headers, rules in (
        ({**own, "host": "evil.example"}, {}),
        ({**own, "origin": "http://evil.example"}, {}),
        (own, {"api_keys": [KEY]}),
    ):
        assert connect(headers, {}, **rules) == ["websocket.close"]
        kinds = connect(headers, {"websocket.http.response": {}}, **rules)
        assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]
        assert sent[0]["status"] in (401, 403)


async def pieces(count, size=1000):
    for _ in range(count):
        yield bytes(size)


def test_a_body_is_counted_as_it_comes():
    rules = {"max_body": 5000}
    assert ask("POST", "/echo", rules, content=bytes(5000)).json() == {"bytes": 5000}
    assert ask("POST", "/echo", rules, content=pieces(5)).json() == {"bytes": 5000}
    for content in (bytes(5001), pieces(6)):
        assert "5,000 bytes" in refused(ask("POST", "/echo", rules, content=content), 413, "request_too_large")
    answer = ask("POST", "/echo", rules, content=pieces(6), headers={"Content-Length": "7"})  # a server would cut it
    refused(answer, 413, "request_too_large")
    # who has no key sends no body
    refused(ask("POST", "/echo", {**rules, "api_keys": [KEY]}, content=bytes(5001)), 401, "invalid_api_key")
    assert ask("POST", "/v1/models", rules, content=pieces(6)).status_code == 200  # it is not read
    refused(ask("POST", "/v1/models", rules, content=bytes(5001)), 413, "request_too_large")


@pytest.mark.parametrize("length", [True, False])
def test_the_rest_of_a_refused_body_is_read_for_a_while_before_the_answer_ends(length, monkeypatch):
    """Or else the client gets a reset instead of the answer."""
    monkeypatch.setattr(security, "LINGER", 0.1)
    happened, endless = [], {"type": "http.request", "body": bytes(3000), "more_body": True}

    def upload(count):
        """Of that many pieces, after which the client waits."""
        coming = iter([endless] * count)
        happened.clear()

        async def receive():
            happened.append("read")
            await asyncio.sleep(0.001)
            return next(coming, None) or await asyncio.sleep(60)

        async def send(message):
            happened.append(message.get("status", message.get("more_body", False)))

        headers = [(b"host", b"localhost")] + [(b"content-length", b"9000")] * length
        scope = {"type": "http", "method": "POST", "path": "/echo", "headers": headers}
        asyncio.run(asyncio.wait_for(protect(APP, max_body=5000)(scope, receive, send), 20))
        return [each for each in happened if each != "read"], happened.count("read")

    before = 0 if length else 2
    for count in (2, 5, 9):
        sent, reads = upload(count)
        assert sent == [413, True, False] and reads == count + 1
        assert happened[before : before + 2] == [413, True] and happened[-1] is False
    endless.update(body=bytes(6000), more_body=False)
    assert upload(2) == ([413, True, False], 1)  # nothing more is waited for


@pytest.fixture(scope="module")
def server():
    """A protected application behind uvicorn; what it logs."""
    logged = []
    config = uvicorn.Config(protect(APP, max_body=100_000), log_config=None, lifespan="off", timeout_keep_alive=5)
    running = uvicorn.Server(config)
    with socket.socket() as listening, pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.Logger.error", lambda _, message, *args, **__: logged.append(str(message)))
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not running.started and time.monotonic() < end:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", logged
        running.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def test_a_body_is_counted_by_a_real_server(server):
    url, logged = server
    with httpx.Client(base_url=url) as client:
        for _ in range(3):
            assert client.post("/echo", content=bytes(100_000)).json() == {"bytes": 100_000}
            for content in (bytes(100_001), bytes(20_000_000), iter([bytes(1000)] * 200), iter([bytes(10**6)] * 20)):
                answer = client.post("/echo", content=content)
                refused(answer, 413, "request_too_large")
                assert answer.headers["connection"] == "close"
        # an answer that has begun can no longer be another one: it ends, and reads no more
        assert ask("POST", "/read", {"max_body": 5000}, content=pieces(9)).text == "begun....."
        assert client.get("/health").status_code == 200
    assert not logged


def test_a_real_server_refuses_pages_and_hosts_too(server):
    url, _ = server
    refused(httpx.get(f"{url}/health", headers={"Host": "evil.example"}), 403, "host_not_allowed")
    refused(httpx.post(f"{url}/echo", headers={"Origin": "http://evil.example"}), 403, "origin_not_allowed")


def test_what_only_this_machine_reaches_needs_no_key():
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "LocalHost", "::1", "[::1]", "::ffff:127.0.0.1"):
        assert is_loopback(host)
        check_listen(host, [], insecure=False)
    for host in ("0.0.0.0", "::", "", "10.0.0.7", "192.168.1.2", "8.8.8.8", "::ffff:10.0.0.7", "gpu.example", "127.1"):
        with pytest.raises(ValueError, match=f"^{host or 'every'}.* --api-key .* --insecure"):
            check_listen(host, [], insecure=False)
        check_listen(host, [KEY], insecure=False)
        check_listen(host, [], insecure=True)


def test_keys_and_origins_that_cannot_be_are_refused(monkeypatch):
    for wrong in ([""], ["a b"], ["secret\n"], ["ключ"], [3], KEY, ["good", ""]):
        with pytest.raises(ValueError, match="an API key is") as error:
            protect(APP, api_keys=wrong)
        assert "secret" not in str(error.value)
    for wrong in ("example.com", "https://example.com/path", "https://", "null", "", "https://a b", "https://me@a"):
        with pytest.raises(ValueError, match="an origin is"):
            check_origins([wrong])
    assert check_origins(["https://A.example:8443/", "chrome-extension://abc", "*"])[0] == "https://a.example:8443"
    with pytest.raises(ValueError, match="any web page"):
        protect(APP, origins=["*"])
    with pytest.raises(ValueError, match="hosts names hosts"):
        protect(APP, hosts=["http://example.com/"])
    monkeypatch.delenv("LIMNER_API_KEY", raising=False)
    assert find_keys([]) == ()
    for value, keys in (("", ()), (KEY, (KEY,))):
        monkeypatch.setenv("LIMNER_API_KEY", value)
        assert find_keys([]) == keys
        assert find_keys(["other", "second"]) == ("other", "second")
    monkeypatch.setenv("LIMNER_API_KEY", "a b")
    with pytest.raises(ValueError, match="an API key is"):
        find_keys([])
