"""Serve the page of a live link: one controller, any number of watchers.

Only those who know the token get anything that changes, only from a page that this server sent, and only under this
machine's own name or address. Whoever reads too slowly misses messages, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from lab.live.controls import MAX_COMMAND_BYTES, describe_all, read_command
from lab.live.engine import Engine
from lab.live.wire import encode_message, read_header
from sdr.errors import InputError, OtaError, RadioError

PAGE = Path(__file__).resolve().parent / "page"

QUEUED_MESSAGES = 200
QUEUED_BYTES = 4 << 20
"""What waits for one page, at most; what comes meanwhile is dropped for that page.

Answers and events have as much room again, which pictures and lines don't take from them.
"""

_PUMP_S = 0.01
_WATCH_S = 0.2
_KEPT = ("images", "channel", "truth", "status", "progress", "original")
_MOST_KEPT = 300
_TOLD = ("control", "controls", "set", "event", "refused")
"""Kinds that a slow page must not miss."""

_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def host_is_ours(host: str, anywhere: bool) -> bool:
    """Return whether a Host header names this machine: loopback, or with `anywhere` its name or any address.

    A page of another site can make its own name point here, but not a number or our name.

    >>> host_is_ours("127.0.0.1:8474", False), host_is_ours("evil.example:8474", True)
    (True, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or (anywhere and name == socket.gethostname().lower()):
        return True
    try:
        number = ipaddress.ip_address(name)
    except ValueError:
        return False
    return anywhere or number.is_loopback


def origin_is_ours(connection: HTTPConnection) -> bool:
    """Return whether the Origin header names the very host that was asked."""
    origin = urlsplit(connection.headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == connection.headers.get("host", "")


class Client:
    """One page: what waits to be sent to it.

    Attributes:
        dropped: messages that it missed.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.dropped = 0
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Queue a message, or drop it where too much waits."""
        if self._lacks_room(message, 1) and (read_header(message)["kind"] not in _TOLD or self._lacks_room(message, 2)):
            self.dropped += 1
            return
        self._waiting.append(message)
        self._bytes += len(message)
        self._news.set()

    def _lacks_room(self, message: bytes, share: int) -> bool:
        """Return whether a message would exceed so many times what may wait."""
        return len(self._waiting) >= share * QUEUED_MESSAGES or self._bytes + len(message) > share * QUEUED_BYTES

    async def send(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                message = self._waiting.popleft()
                self._bytes -= len(message)
                await self.websocket.send_bytes(message)


class Hub:
    """Passes messages from the engine to the pages, and commands back.

    Args:
        engine: that runs.
        token: what a page has to know.
        anywhere: whether other machines may ask.

    Attributes:
        failure: what ended the engine; None while it runs.
    """

    def __init__(self, engine: Engine, token: str, anywhere: bool) -> None:
        self.engine, self.anywhere = engine, anywhere
        self.failure: Exception | None = None
        self._token = token
        self._clients: list[Client] = []
        self._controller: Client | None = None
        self._kept: dict[tuple[str, ...], bytes] = {}

    def knows_token(self, connection: HTTPConnection) -> bool:
        """Return whether a request carries the token."""
        return secrets.compare_digest(connection.query_params.get("token", "").encode(), self._token.encode())

    async def pump(self, end: Callable[[], None]) -> None:
        """Pass messages on and watch the engine, until that fails; `end` is called then."""
        try:
            await self._pump()
        except Exception as error:
            self.failure = error
            text = str(error) if isinstance(error, OtaError) else f"the server failed: {error!r}"
            for client in self._clients:
                client.put(encode_message("event", {"from": "engine", "level": "error", "text": text}))
            await asyncio.sleep(_WATCH_S)  # for the pages to hear it
            end()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        watch_s = 0.0
        while True:
            for message in self.engine.messages():
                self._broadcast(message)
            if loop.time() >= watch_s:
                watch_s = loop.time() + _WATCH_S
                self.engine.watch()
            await asyncio.sleep(_PUMP_S)

    def _broadcast(self, message: bytes) -> None:
        header = read_header(message)
        if header["kind"] in _KEPT:
            key = (header["kind"], header["from"], str(header.get("id", "")))
            self._kept.pop(key, None)
            self._kept[key] = message
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        for client in self._clients:
            client.put(message)

    def _hello(self, client: Client) -> bytes:
        plan = self.engine.plan
        layout, settings = plan.layout, plan.settings
        about = {
            "layout": layout.name,
            "rate_sps": layout.rate_sps,
            "fft_size": layout.fft_size,
            "capacity": layout.capacity,
            "active": [int(carrier) for carrier in layout.active],
            "bundle": settings.bundle,
            "radio": settings.radio or "GNU Radio loopback" if settings.play is None else f"play {settings.play.name}",
            "simulated": settings.simulated,
            "played": settings.play is not None,
            "transmits": settings.play is None and not settings.listen,
            "plain": plan.plain,
            "fps": settings.fps,
        }
        shown = describe_all(self.engine.controls)
        values = {"about": about, "controls": shown, "values": self.engine.values}
        return encode_message("hello", {"from": "engine", "controls_link": client is self._controller, **values})

    async def talk(self, websocket: WebSocket) -> None:
        """Serve one page until it leaves."""
        headers = websocket.headers
        right = host_is_ours(headers.get("host", ""), self.anywhere) and origin_is_ours(websocket)
        if not right or not self.knows_token(websocket):
            await websocket.close(1008)
            return
        await websocket.accept()
        client = Client(websocket)
        self._controller = self._controller or client
        client.put(self._hello(client))
        for message in self._kept.values():
            client.put(message)
        self._clients.append(client)
        self._count()
        sending = asyncio.create_task(client.send())
        try:
            while True:
                self._obey(client, await websocket.receive_text())
        except (WebSocketDisconnect, RuntimeError, KeyError):
            pass  # it left, or sent something other than text
        finally:
            self._clients.remove(client)
            if self._controller is client:
                self._controller = None
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending
            self._count()
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it may be gone
                await websocket.close(1003)

    def _obey(self, client: Client, text: str) -> None:
        try:
            name, value = read_command(text, self.engine.controls)
            if name == "take_control":
                if self._controller not in (None, client):
                    raise InputError("another page controls the link; it has to be closed first")
                self._controller = client
                client.put(encode_message("control", {"from": "engine", "controls_link": True}))
            elif client is not self._controller:
                raise InputError("this page only watches; another one controls the link")
            else:
                self.engine.order(name, value)
        except OtaError as error:
            client.put(encode_message("refused", {"from": "engine", "text": str(error)}))

    def _count(self) -> None:
        dropped = sum(client.dropped for client in self._clients)
        numbers = {"pages": len(self._clients), "dropped_for_slow_pages": dropped}
        self._broadcast(encode_message("status", {"from": "server", "numbers": numbers}))


class Guard:
    """Middleware that refuses foreign hosts and adds the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp, anywhere: bool) -> None:
        self._app, self._anywhere = app, anywhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if host_is_ours(Request(scope).headers.get("host", ""), self._anywhere):
            await self._app(scope, receive, with_headers)
        else:
            await PlainTextResponse("unknown host\n", 421)(scope, receive, with_headers)


def make_app(hub: Hub, end: Callable[[], None]) -> ASGIApp:
    """Return the application.

    Args:
        hub: between engine and pages.
        end: called when the engine failed.
    """

    async def index(request: Request) -> Response:
        if not hub.knows_token(request):
            return PlainTextResponse("This page needs the address that `ota live` printed, with its token.\n", 403)
        return FileResponse(PAGE / "index.html")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        pumping = asyncio.create_task(hub.pump(end))
        yield
        pumping.cancel()

    routes = [
        Route("/", index),
        WebSocketRoute("/socket", hub.talk),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), hub.anywhere)


def bind(port: int, anywhere: bool) -> socket.socket:
    """Return a socket that listens on loopback, or with `anywhere` to everyone.

    Raises:
        RadioError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0" if anywhere else "127.0.0.1", port))
        listener.listen(128)  # a browser that is quicker than we are waits instead of failing
    except OSError as error:
        listener.close()
        raise RadioError(
            f"port {port} can't be used ({error.strerror}); give another --port, 0 for a free one"
        ) from None
    return listener


def serve(engine: Engine, listener: socket.socket, anywhere: bool, announce: Callable[[str], None]) -> None:
    """Serve the page until interrupted.

    Args:
        engine: that runs.
        listener: see `bind`.
        anywhere: whether other machines may ask.
        announce: called with the address of the page, token and all.

    Raises:
        FlowgraphError: the engine failed.
    """
    import uvicorn

    token = secrets.token_urlsafe(18)
    hub = Hub(engine, token, anywhere)
    server: Any = None

    def end() -> None:
        server.should_exit = True

    options: dict[str, Any] = {
        "log_level": "critical",
        "ws": "websockets-sansio",
        "ws_max_size": MAX_COMMAND_BYTES,
        "ws_per_message_deflate": False,
        "server_header": False,
        "timeout_graceful_shutdown": 1,
    }
    server = uvicorn.Server(uvicorn.Config(make_app(hub, end), **options))
    name = socket.gethostname() if anywhere else "127.0.0.1"
    announce(f"http://{name}:{listener.getsockname()[1]}/?token={token}")
    server.run(sockets=[listener])
    if hub.failure is not None:
        raise hub.failure
