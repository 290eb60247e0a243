"""The HTTP surface as one plain ASGI application.

    app = build_app(FrontendParts(port=..., models={"NAME": ServedModel(directory=...)}, ...))

uvicorn runs it as it is (httptools, uvloop). Routes are a table; each says who may call it, and nothing else can be
reached. No middleware: a streamed token passes `hub`, `choice`, its dialect and the server's `send`.
Where metrics have a port of their own, nothing else is there, and no key is asked for.
"""

import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Literal

import msgspec

from jedlik.core.config import FrontendConfig, GatewayConfig
from jedlik.core.errors import RequestError
from jedlik.frontend.dialect import BodyT, Dialect
from jedlik.frontend.errors import HttpRefusal, error_reply
from jedlik.frontend.generate import Generation
from jedlik.frontend.http import Disconnected, ErrorForm, Message, Receive, Send, Web
from jedlik.frontend.hub import Hub
from jedlik.frontend.models import FirstWorkers, Models, ServedModel, load_texts
from jedlik.frontend.openai.dialects import CHAT, COMPLETION, OpenAIDialect
from jedlik.frontend.operations import PlanPages, RolePages
from jedlik.frontend.pages import Pages
from jedlik.frontend.port import GatewayPort, PlansPort, RolesPort
from jedlik.frontend.site import Keys, Site

Access = Literal["open", "key"]
"""open: anybody; key: whoever has a key (anybody, where none are set)."""
METRICS = "/metrics"
PREFLIGHT_S = b"600"
"""A browser may remember for so long what was allowed."""
EXPOSED = b"x-request-id, x-jedlik-worker, x-jedlik-cached-tokens, retry-after, retry-after-ms, x-should-retry"
_FIELD_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,2000}")


RouteAnswer = Callable[[Web], Awaitable[None]]
SiteOf = Callable[[int | None], Site]
"""A site is looked up by the port that a connection came to."""


class FrontendParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that `serve` hands in."""

    port: GatewayPort
    roles: RolesPort
    plans: PlansPort
    models: Mapping[str, ServedModel]
    """The models by the names that clients use. They are known even while no worker is there (503 then, not 404)."""
    config: FrontendConfig
    gateway: GatewayConfig = GatewayConfig()
    """The settings for requests that wait for a first worker: how long, and how many."""
    special_in_text: bool = False
    """Text of messages may become control tokens."""
    api_keys: Mapping[str, str]
    """Key to tenant; empty: no authentication."""
    site: Site = Site()
    other_sites: Mapping[int, Site] = {}
    """The sites of further ports, by port."""
    metrics: Callable[[], bytes]
    """The callable returns Prometheus text."""
    rng: random.Random
    """The generator draws the seeds of requests without one."""
    fresh_id: Callable[[], str]
    """Unique request ids: printable ASCII without "~", at most 128 characters."""
    now: Callable[[], float]
    """The clock returns monotonic seconds."""
    wall: Callable[[], float]
    """The clock returns seconds since the epoch."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method at one path."""

    method: str
    path: str
    """Ends in "/" if an argument follows."""
    access: Access
    answer: RouteAnswer
    error_form: ErrorForm = error_reply
    """Errors have this form once the route is known."""


def _route(method: str, path: str, access: Access, answer: RouteAnswer) -> Route:
    return Route(method=method, path=path, access=access, answer=answer)


def generation_route(path: str, generation: Generation, dialect: Dialect[BodyT]) -> Route:
    """Return the route on which a dialect is spoken."""
    return Route(
        method="POST", path=path, access="key", answer=lambda web: generation.answer(web, dialect),
        error_form=dialect.error,
    )  # fmt: skip


def routes(generation: Iterable[Route], pages: Pages, roles: RolePages, plans: PlanPages) -> tuple[Route, ...]:
    """Return all routes; nothing else can be reached."""
    return (
        *generation,
        _route("GET", "/v1/models", "key", pages.models),
        _route("GET", "/v1/models/", "key", pages.model),
        _route("GET", "/explain/", "key", pages.explain),
        _route("GET", "/roles", "key", roles.show),
        _route("POST", "/roles", "key", roles.change),
        _route("GET", "/plan", "key", plans.show),
        _route("POST", "/scale", "key", plans.scale),
        _route("POST", "/tokenize", "key", pages.tokenize),
        _route("POST", "/detokenize", "key", pages.detokenize),
        _route("GET", "/tokenizer_info", "key", pages.tokenizer_info),
        _route("GET", "/version", "key", pages.version),
        _route("GET", METRICS, "key", pages.metrics),
        _route("GET", "/health", "open", pages.health),
        _route("GET", "/live", "open", pages.live),
        _route("GET", "/ready", "open", pages.ready),
    )


class Application:
    """The ASGI callable. `hub` is for whoever wants to know what is in flight."""

    def __init__(
        self, table: tuple[Route, ...], keys: Keys, site_of: SiteOf, hub: Hub, fresh_id: Callable[[], str]
    ) -> None:
        self.routes = table
        self.hub = hub
        self.caches: Callable[[], dict[str, tuple[int, int]]] = dict
        """Items and bytes of what is kept, by name."""
        self._keys = keys
        self._site_of = site_of
        self._fresh_id = fresh_id
        self._paths: dict[str, dict[str, Route]] = {}
        for route in table:
            self._paths.setdefault(route.path, {})[route.method] = route
        self._prefixes = [path for path in self._paths if path.endswith("/")]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        web = Web(scope, receive, send, self._fresh_id)
        try:
            await self._admitted(web)(web)
        except RequestError as error:
            await web.refuse(error)
        except Disconnected:
            pass  # nobody is left to answer
        except Exception:
            # A bug of ours: the client learns that much, the server's log the rest.
            if not web.begun:
                await web.refuse(INTERNAL)
            raise

    def _admitted(self, web: Web) -> RouteAnswer:
        """Return the handler that answers this request. Raises RequestError if the request may not be answered."""
        site = self._site_of(web.port)
        _check_site(web, site)
        methods = self._methods(web, site)
        method = str(web.scope["method"])
        if method == "OPTIONS":
            return lambda web: _tell_options(web, methods)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = _allow(methods)
            raise HttpRefusal(
                f"{method} is not for {str(web.scope['path'])[:200]}; use {allowed}.",
                code="method_not_allowed", status=405, headers=((b"allow", allowed.encode()),),
            )  # fmt: skip
        web.error_form = route.error_form
        if route.access == "key" and not site.metrics_only:
            web.tenant = self._keys.tenant(web.headers)
        return route.answer

    def _methods(self, web: Web, site: Site) -> Mapping[str, Route]:
        """What may be done at a path. Raises RequestError (404)."""
        path = str(web.scope["path"])
        if site.metrics_only and _tidy(path) != METRICS:
            raise _nothing_at(path)
        found = self._paths.get(path)
        if found is not None and not path.endswith("/"):
            return found
        if path == "*":
            return {route.method: route for route in self.routes}
        tidy = _tidy(path)
        if tidy in self._paths:
            return self._paths[tidy]
        for prefix in self._prefixes:
            if tidy.startswith(prefix) and len(tidy) > len(prefix):
                web.argument = tidy[len(prefix) :]
                return self._paths[prefix]
        raise _nothing_at(path)


def _check_site(web: Web, site: Site) -> None:
    """Checks the request's Host and Origin against the site. Raises RequestError (403)."""
    host, origin = web.header(b"host"), web.header(b"origin")
    if not site.answers_to(host):
        raise RequestError(
            f"The Host {host[:100]!r} is none of this server's names; add it with --allowed-hosts.",
            param="host", code="host_not_allowed", status=403,
        )  # fmt: skip
    let_in = bool(origin) and site.lets_in(origin)
    if let_in:
        web.shared = (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        )
    method = web.scope["method"]
    preflight = method == "OPTIONS" and b"access-control-request-method" in web.headers
    changes = method not in ("GET", "HEAD", "OPTIONS", "TRACE")
    if (preflight and not let_in) or (changes and not site.may_change(origin, host, web.header(b"sec-fetch-site"))):
        raise RequestError(
            f"Pages of {origin[:100] or 'another site'} may not use this server; allow them with --cors-origins.",
            param="origin", code="origin_not_allowed", status=403,
        )  # fmt: skip


def _nothing_at(path: str) -> RequestError:
    return RequestError(f"There is nothing at {path[:200]}.", code="not_found", status=404)


def _allow(methods: Mapping[str, Route]) -> str:
    """The value of an Allow header."""
    return ", ".join(sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}))


async def _tell_options(web: Web, methods: Mapping[str, Route]) -> None:
    """What may be done; to the preflight of a page that may use the server, also what its browser wants to know."""
    allowed = _allow(methods).encode()
    headers = [(b"allow", allowed)]
    if web.shared and b"access-control-request-method" in web.headers:
        headers += [(b"access-control-allow-methods", allowed), (b"access-control-max-age", PREFLIGHT_S)]
        fields = web.header(b"access-control-request-headers")
        if _FIELD_NAMES.fullmatch(fields):
            headers.append((b"access-control-allow-headers", fields.encode()))
        if web.header(b"access-control-request-private-network") == "true":
            headers.append((b"access-control-allow-private-network", b"true"))
    await web.begin(204, headers)
    await web.send({"type": "http.response.body", "body": b"", "more_body": False})


INTERNAL = RequestError("Something is wrong here; it is not your fault.", code="internal", status=500)


def _tidy(path: str) -> str:
    """Doubled and trailing slashes are a base URL's, not the caller's meaning."""
    return "/" + "/".join([part for part in path.split("/") if part])


def build_app(parts: FrontendParts) -> Application:
    """Wire the surface. Reads the models' text sides (a quarter of a second each). Raises ConfigError."""
    texts = load_texts(parts.models, parts.wall, parts.config.text_cache_bytes, parts.special_in_text)
    models = Models(texts, parts.models, parts.port)
    hub = Hub(parts.port, parts.config, parts.now)
    pages = Pages(parts.port, models, hub.turns, parts.config.max_messages, parts.metrics, parts.wall())
    first_workers = FirstWorkers(parts.port, models, parts.gateway)
    generation = Generation(hub, models, first_workers, parts.config, parts.fresh_id, parts.wall)
    dialects = {
        "/v1/chat/completions": OpenAIDialect(CHAT, parts.config, parts.rng),
        "/v1/completions": OpenAIDialect(COMPLETION, parts.config, parts.rng),
    }
    spoken = [generation_route(path, generation, dialect) for path, dialect in dialects.items()]
    table = routes(spoken, pages, RolePages(parts.roles), PlanPages(parts.plans))
    application = Application(
        table, Keys(parts.api_keys), lambda port: parts.other_sites.get(port or 0, parts.site), hub, parts.fresh_id
    )
    application.caches = models.caches
    return application


__all__ = ["Application", "FrontendParts", "Route", "ServedModel", "build_app"]
