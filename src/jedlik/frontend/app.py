"""The HTTP surface as one plain ASGI application.

    app = build_app(FrontendParts(port=..., model_dir=..., ...))

uvicorn runs it as it is (httptools, uvloop). Routes are a table; each says who may call it, and nothing else can be
reached. No middleware: a streamed token passes `hub`, `choice`, `sse` and the server's `send`.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from jedlik.core.config import FrontendConfig, GatewayConfig
from jedlik.core.errors import RequestError
from jedlik.core.requests import OPENAI, Defaults
from jedlik.frontend.auth import Keys
from jedlik.frontend.first_worker import FirstWorkers
from jedlik.frontend.generate import Desk, Generation
from jedlik.frontend.http import Disconnected, Message, Receive, Send, Web
from jedlik.frontend.hub import Hub
from jedlik.frontend.openai.errors import of_request_error
from jedlik.frontend.openai.limits import LimitsBook
from jedlik.frontend.openai.plan import Planner
from jedlik.frontend.pages import Pages
from jedlik.frontend.plans import PlanPages, PlansPort
from jedlik.frontend.port import GatewayPort
from jedlik.frontend.roles import RolePages, RolesPort
from jedlik.frontend.text.model import load_text

Access = Literal["open", "key", "local"]
"""open: anybody; key: whoever has a key (anybody, where none are set); local: this host, or a key."""


class FrontendParts(msgspec.Struct, frozen=True, kw_only=True):
    """What `cli` hands in."""

    port: GatewayPort
    roles: RolesPort
    plans: PlansPort
    model_dir: Path
    """A Hugging Face directory; only its text side is read (tokenizer.json, its config, the chat template)."""
    served: tuple[str, ...]
    """Names of models that are known even while no worker is there (503 then, not 404)."""
    config: FrontendConfig
    defaults: Defaults = OPENAI
    """Of sampling, where a request says nothing."""
    gateway: GatewayConfig = GatewayConfig()
    """How long requests wait for a first worker, and how many."""
    api_keys: Mapping[str, str]
    """Key to tenant; empty: no authentication."""
    metrics: Callable[[], bytes]
    """Prometheus text."""
    rng: random.Random
    """Draws the seeds of requests without one."""
    fresh_id: Callable[[], str]
    """Unique request ids: printable ASCII without "~", at most 128 characters."""
    now: Callable[[], float]
    """Monotonic seconds."""
    wall: Callable[[], float]
    """Seconds since the epoch."""


class Route(msgspec.Struct, frozen=True):
    method: str
    path: str
    """Ends in "/" if an argument follows."""
    access: Access
    answer: Callable[[Web], Awaitable[None]]


def routes(generation: Generation, pages: Pages, roles: RolePages, plans: PlanPages) -> tuple[Route, ...]:
    """All that can be reached."""
    return (
        Route("POST", "/v1/chat/completions", "key", generation.chat),
        Route("POST", "/v1/completions", "key", generation.completion),
        Route("GET", "/v1/models", "key", pages.models),
        Route("GET", "/v1/models/", "key", pages.model),
        Route("GET", "/explain/", "key", pages.explain),
        Route("GET", "/roles", "key", roles.show),
        Route("POST", "/roles", "key", roles.change),
        Route("GET", "/plan", "key", plans.show),
        Route("POST", "/scale", "key", plans.scale),
        Route("POST", "/tokenize", "key", pages.tokenize),
        Route("POST", "/detokenize", "key", pages.detokenize),
        Route("GET", "/version", "key", pages.version),
        Route("GET", "/metrics", "local", pages.metrics),
        Route("GET", "/health", "open", pages.health),
        Route("GET", "/live", "open", pages.live),
        Route("GET", "/ready", "open", pages.ready),
    )


class WrongMethod(RequestError):
    """405, with the method that would do."""

    def __init__(self, path: str, allowed: str) -> None:
        super().__init__(f"Use {allowed} for {path}.", code="method_not_allowed", status=405)
        self.allowed = allowed


class Application:
    """The ASGI callable. `hub` is for whoever wants to know what is in flight."""

    def __init__(self, table: tuple[Route, ...], keys: Keys, hub: Hub, fresh_id: Callable[[], str]) -> None:
        self.routes = table
        self.hub = hub
        self._keys = keys
        self._fresh_id = fresh_id
        self._exact = {(route.method, route.path): route for route in table if not route.path.endswith("/")}
        self._prefixes = [route for route in table if route.path.endswith("/")]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Web(scope, receive, send, self._fresh_id))
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, web: Web) -> None:
        try:
            route = self._find(web)
            web.tenant = self._tenant(web, route.access)
            await route.answer(web)
        except RequestError as error:
            headers = ((b"allow", error.allowed.encode()),) if isinstance(error, WrongMethod) else ()
            await web.refuse(of_request_error(error, headers))
        except Disconnected:
            pass  # nobody is left to answer
        except Exception:
            # A bug of ours: the client learns that much, the server's log the rest.
            if not web.begun:
                await web.refuse(INTERNAL)
            raise

    def _tenant(self, web: Web, access: Access) -> str:
        if access == "open":
            return ""
        return self._keys.tenant(web) if access == "key" else self._keys.local_or_tenant(web)

    def _find(self, web: Web) -> Route:
        """Raises RequestError: 404, or WrongMethod."""
        path, method = str(web.scope["path"]), str(web.scope["method"])
        method = "GET" if method == "HEAD" else method
        route = self._exact.get((method, path))
        if route is None:
            path = _tidy(path)
            route = self._exact.get((method, path)) or self._by_prefix(web, method, path)
        if route is not None:
            return route
        allowed = [other.method for other in self.routes if other.path == path]
        if allowed:
            raise WrongMethod(path, allowed[0])
        raise RequestError(f"There is nothing at {path[:200]}.", code="not_found", status=404)

    def _by_prefix(self, web: Web, method: str, path: str) -> Route | None:
        for route in self._prefixes:
            if path.startswith(route.path) and len(path) > len(route.path) and method == route.method:
                web.argument = path[len(route.path) :]
                return route
        return None


INTERNAL = of_request_error(RequestError("Something is wrong here; it is not your fault.", code="internal", status=500))


def _tidy(path: str) -> str:
    """Doubled and trailing slashes are a base URL's, not the caller's meaning."""
    return "/" + "/".join([part for part in path.split("/") if part])


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def build_app(parts: FrontendParts) -> Application:
    """Wire the surface. Reads the model's text side (a quarter of a second). Raises ConfigError."""
    text = load_text(parts.model_dir, parts.wall)
    hub = Hub(parts.port, parts.config, parts.now)
    planner = Planner(text, parts.config, parts.rng)
    book = LimitsBook(parts.served, parts.defaults)
    desk = Desk(parts.port, hub, text, book, planner, parts.config)
    pages = Pages(desk, parts.metrics, parts.wall())
    generation = Generation(desk, FirstWorkers(parts.port, book, parts.gateway), parts.fresh_id, parts.wall)
    table = routes(generation, pages, RolePages(parts.roles), PlanPages(parts.plans))
    return Application(table, Keys(parts.api_keys), hub, parts.fresh_id)


__all__ = ["Application", "FrontendParts", "Route", "build_app"]
