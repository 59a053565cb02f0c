"""Who may talk to a local server, and what its answers may do in a browser: one ASGI middleware.

A server on this machine's loopback address is reachable by every page that its user visits. What
keeps those out: a random token that only the terminal shows, swapped at the first visit for an
HttpOnly, SameSite=Strict cookie; the Host header, so that a foreign name which was made to resolve
to this machine (DNS rebinding) gets nothing; Origin and Sec-Fetch-Site, so that another site, or
another port of this machine, cannot act through the browser; a bound on bodies; and a
Content-Security-Policy under which no injected text can run.

Example:
    >>> from starlette.applications import Starlette
    >>> policy = Policy(token=new_token(), hosts=hosts_for("127.0.0.1"))
    >>> guarded = Guard(Starlette(), policy)
    >>> address_of("127.0.0.1", 8765, "secret")
    'http://127.0.0.1:8765/?token=secret'
"""

from __future__ import annotations

import http.cookies
import ipaddress
import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # Text can then not be turned into markup by script either: innerHTML throws.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Own files only: no inline script or style, no other server, no frame around the page."""

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under it a browser sends "Origin: null" with the forms of our own pages.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""On every answer, beside the Content-Security-Policy."""

MAX_BODY_BYTES = 1 << 20
_DRAINED_BYTES = 64 << 20
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who is let in.

    Attributes:
        token: What a visitor must know, as ``?token=`` once, as the cookie from then on, or as
            ``Authorization: Bearer``; None lets everyone in who passes the other checks.
        hosts: Names that the Host header may have, without port; see `hosts_for`.
        any_address: Also let the Host header be any IP address: an attacker's page has a name.
        max_body_bytes: The largest body; a longer one is answered 413.
        body_bytes: Other bounds for paths that begin so: ``{"/predict": 50 << 20}``.
        public: Paths that need no token: ``{"/health"}``.
        cookie: Name of the cookie; two servers on one machine share a cookie jar, so put the
            port into it.
        content_security_policy: The policy of every answer that brings none of its own.
    """

    token: str | None
    hosts: frozenset[str]
    any_address: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    body_bytes: Mapping[str, int] = field(default_factory=dict)
    public: frozenset[str] = frozenset()
    cookie: str = "finetune"
    content_security_policy: str = CONTENT_SECURITY_POLICY


def new_token() -> str:
    """Returns 256 random bits that can stand in an address."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Returns whether an address or name to listen on is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_for(host: str) -> frozenset[str]:
    """Returns the names that a server which listens on `host` may be called by.

    Loopback names always; beside them `host` itself and, where it is open to the network, this
    machine's own name. Combine with ``Policy(any_address=not is_loopback(host))``.
    """
    names = {"127.0.0.1", "localhost", "::1", host.casefold()}
    if not is_loopback(host):
        own = socket.gethostname().casefold()
        names |= {own, f"{own}.local"}
    return frozenset(names - {"", "0.0.0.0", "::"})


def address_of(host: str, port: int, token: str | None) -> str:
    """Returns the address to open in a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"http://{bracketed}:{port}/" + ("" if token is None else f"?token={token}")


class Guard:
    """The middleware: ``Middleware(Guard, policy=policy)``, or ``Guard(app, policy)``.

    Refused requests never reach the app: 400 for a wrong Host, 401 without the token, 403 from
    another site, 413 for a body that is too large, with one line of text (a JSON object with the
    key ``error`` for who does not accept HTML).
    """

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on to the app."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        guarded = _with_headers(send, self.policy)
        limit = self._limit(scope["path"])
        refusal = self._refusal(scope, headers) or _too_long(headers, limit)
        if refusal is not None:
            # A client that is still sending reads no answer before it is done.
            await _drain(headers, receive)
            await refusal(scope, receive, guarded)
            return
        await self.app(scope, _bounded(receive, limit), guarded)

    def _limit(self, path: str) -> int:
        for start, limit in self.policy.body_bytes.items():
            if path.startswith(start):
                return limit
        return self.policy.max_body_bytes

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Returns the answer to a request that must not reach the app, else None."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_known(host):
            return _refuse(headers, 400, "This server is not known by that name.")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope.get('scheme', 'http')}://{host}":
            return _refuse(headers, 403, "Requests from other sites are refused.")
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        from_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if from_elsewhere and not navigates:
            return _refuse(headers, 403, "Requests from other sites are refused.")
        if self.policy.token is None or scope["path"] in self.policy.public:
            return None
        return self._without_token(scope, headers, origin, from_elsewhere)

    def _is_known(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        if name in self.policy.hosts:
            return True
        return self.policy.any_address and _is_address(name)

    def _without_token(
        self, scope: Scope, headers: Headers, origin: str | None, from_elsewhere: bool
    ) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        offered = [value for name, value in query if name == "token"]
        if offered:
            if scope["method"] != "GET" or not all(map(self._is_token, offered)):
                return _refuse(headers, 401, _WANTED)
            rest = [(name, value) for name, value in query if name != "token"]
            # Beside the path only: a path that begins with two slashes would name another host.
            target = "/" + scope["path"].lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
            return self._welcome(target, from_elsewhere)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.casefold() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_token(_cookie(headers, self.policy.cookie)):
            if origin is None and scope["method"] not in _READING:
                return _refuse(headers, 403, "Requests of unknown origin are refused.")
            return None
        return _refuse(headers, 401, _WANTED)

    def _is_token(self, offered: str) -> bool:
        wanted = (self.policy.token or "").encode()
        return secrets.compare_digest(offered.encode("utf-8", "surrogateescape"), wanted)

    def _welcome(self, target: str, from_elsewhere: bool) -> Response:
        """Returns the answer that swaps the token in the address for the cookie."""
        if from_elsewhere:
            # A browser keeps a Strict cookie back through redirects of a link on another site.
            page = '<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>…</title>'
            response: Response = HTMLResponse(page)
        else:
            response = RedirectResponse(target, status_code=303)
        response.set_cookie(
            self.policy.cookie,
            self.policy.token or "",
            httponly=True,
            samesite="strict",
            path="/",
        )
        return response


_WANTED = (
    "Open the address that finetune printed in the terminal: it carries the token of this session."
)


def _refuse(headers: Headers, status: int, reason: str) -> Response:
    if "text/html" in headers.get("accept", ""):
        return PlainTextResponse(reason + "\n", status_code=status)
    body = json.dumps({"error": reason})
    return Response(body, status_code=status, media_type="application/json")


def _too_long(headers: Headers, limit: int) -> Response | None:
    declared = headers.get("content-length")
    if declared is None:
        return None
    if not (declared.isascii() and declared.isdigit()):
        return _refuse(headers, 400, "The length of the body is not a number.")
    if int(declared) > limit:
        return _refuse(headers, 413, f"The body is larger than {limit:,} bytes.")
    return None


async def _drain(headers: Headers, receive: Receive) -> None:
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return
    seen = 0
    while seen < _DRAINED_BYTES:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        seen += len(message.get("body", b""))


def _bounded(receive: Receive, limit: int) -> Receive:
    """Returns `receive` that fails with 413 when more comes than was declared or is allowed."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, f"The body is larger than {limit:,} bytes.")
        return message

    return bounded


def _with_headers(send: Send, policy: Policy) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", policy.content_security_policy)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return guarded


def _name_of(host: str) -> str | None:
    """Returns the name or address in a Host header without port; None if malformed."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        if not closed or not (port == "" or port.startswith(":")):
            return None
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return None
    return name.casefold().rstrip(".") or None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(headers: Headers, name: str) -> str:
    jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return ""
    return jar[name].value if name in jar else ""
