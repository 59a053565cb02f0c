"""Access control and security headers of the local servers, as one ASGI middleware.

A server on a loopback address can be reached by every page that its user visits. Defenses: a
random token, printed in the terminal and exchanged at the first visit for an HttpOnly,
SameSite=Strict cookie; the Host header, against DNS rebinding; Origin and Sec-Fetch-Site, against
requests from other sites and ports; a limit on body sizes; and a Content-Security-Policy under
which injected text cannot run.

Example:
    >>> from starlette.applications import Starlette
    >>> policy = policy_for("127.0.0.1", 8765, new_token())
    >>> guarded = Guard(Starlette(), policy)
    >>> address_of("127.0.0.1", 8765, "secret")
    'http://127.0.0.1:8765/?token=secret'
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.messages import marked

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
        # Scripts cannot turn text into markup either: innerHTML throws.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""No inline scripts or styles, no other servers, no framing."""

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, browsers send "Origin: null" with the forms of our own pages.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""Headers of every response, besides the Content-Security-Policy."""

MAX_BODY_BYTES = 1 << 20
_DRAINED_BYTES = 64 << 20
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Access policy of a server.

    Attributes:
        token: Sent once as ``?token=`` and then as the cookie, or as ``Authorization: Bearer``;
            None requires no token.
        hosts: Accepted names in the Host header, without port.
        any_address: Whether every IP address is accepted as Host: DNS rebinding needs a name.
        max_body_bytes: Larger bodies get 413.
        public: Paths that require no token.
        cookie: Name of the cookie. Servers on one machine share cookies: include the port.
    """

    token: str | None
    hosts: frozenset[str]
    any_address: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    public: frozenset[str] = frozenset()
    cookie: str = "finetune"


def new_token() -> str:
    """Returns 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def stored_token(path: Path) -> str:
    """Returns the token in a file that this user alone can read; a new one if there is none.

    With it, pages that are open when a server is started again go on.

    A file that others could read counts as none. Where the file cannot be written, the token lasts
    as long as the server.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077:
            token = path.read_text(encoding="ascii").strip()
            if _TOKEN.fullmatch(token):
                return token
    token = new_token()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
    return token


def is_loopback(host: str) -> bool:
    """Returns whether a host to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def policy_for(host: str, port: int, token: str | None) -> Policy:
    """Returns the policy of a server that listens on `host`.

    It accepts the loopback names and `host`; if `host` is open to the network, also this machine's
    name and all addresses.
    """
    names = {"127.0.0.1", "localhost", "::1", host.casefold()}
    if not is_loopback(host):
        own = socket.gethostname().casefold()
        names |= {own, f"{own}.local"}
    return Policy(
        token=token,
        hosts=frozenset(names - {"", "0.0.0.0", "::"}),
        any_address=not is_loopback(host),
        cookie=f"finetune_{port}",
    )


def address_of(host: str, port: int, token: str | None) -> str:
    """Returns the address to open in a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"http://{bracketed}:{port}/" + ("" if token is None else f"?token={token}")


class Guard:
    """ASGI middleware that refuses requests against a policy.

    Refused requests do not reach the app: 400 for a wrong Host, 401 without the token, 403 from
    another site, 413 for a body that is too large. The response is ``{"error": ...}``, or text for
    clients that accept HTML.
    """

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request or passes it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        send = _with_headers(send)
        limit = self.policy.max_body_bytes
        refusal = self._refusal(scope, headers) or _too_large(headers, limit)
        if refusal is not None:
            # A client that is still sending does not read the response before it is done.
            await _drain(headers, receive)
            await refusal(scope, receive, send)
            return
        await self.app(scope, _limited(receive, limit), send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Returns the response to a request that must not reach the app, else None."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_known(host):
            return _refuse(headers, 400, "This server is not known by that name.")
        origin = headers.get("origin")
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        is_cross_site = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        foreign_origin = origin not in (None, f"{scope.get('scheme', 'http')}://{host}")
        if foreign_origin or (is_cross_site and not navigates):
            return _refuse(headers, 403, "Requests from other sites are refused.")
        if self.policy.token is None or scope["path"] in self.policy.public:
            return None
        request = Request(scope)
        tokens = request.query_params.getlist("token")
        if tokens:
            if scope["method"] != "GET" or not all(map(self._is_token, tokens)):
                return _refuse(headers, 401, _TOKEN_MISSING)
            query = request.query_params.multi_items()
            rest = [(name, value) for name, value in query if name != "token"]
            # One leading slash: a path with two would name another host.
            target = "/" + scope["path"].lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
            return self._set_cookie(target, is_cross_site)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.casefold() == "bearer" and self._is_token(bearer.strip()):
            return None
        if not self._is_token(request.cookies.get(self.policy.cookie, "")):
            return _refuse(headers, 401, _TOKEN_MISSING)
        if origin is None and scope["method"] not in _SAFE_METHODS:
            return _refuse(headers, 403, "Requests of unknown origin are refused.")
        return None

    def _is_known(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        return name in self.policy.hosts or (self.policy.any_address and _is_address(name))

    def _is_token(self, value: str) -> bool:
        expected = (self.policy.token or "").encode()
        return secrets.compare_digest(value.encode("utf-8", "surrogateescape"), expected)

    def _set_cookie(self, target: str, is_cross_site: bool) -> Response:
        """Returns the response that exchanges the token in the address for the cookie."""
        if is_cross_site:
            # A browser does not send a Strict cookie along redirects from another site.
            page = '<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>…</title>'
            response: Response = HTMLResponse(page)
        else:
            response = RedirectResponse(target, status_code=303)
        cookie, token = self.policy.cookie, self.policy.token or ""
        response.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
        return response


_TOKEN_MISSING = marked(
    "Open the address that finetune printed in the terminal: it contains the token of this session."
)


def _refuse(headers: Headers, status: int, reason: str) -> Response:
    if "text/html" in headers.get("accept", ""):
        return PlainTextResponse(reason + "\n", status)
    return JSONResponse({"error": reason}, status)


def _too_large(headers: Headers, limit: int) -> Response | None:
    declared = headers.get("content-length")
    if declared is None:
        return None
    if not (declared.isascii() and declared.isdigit()):
        return _refuse(headers, 400, "Content-Length is not a number.")
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


def _limited(receive: Receive, limit: int) -> Receive:
    """Returns a `receive` that raises 413 once the body exceeds the limit."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, f"The body is larger than {limit:,} bytes.")
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return with_headers


def _name_of(host: str) -> str | None:
    """Returns the host name or address in a Host header; None if malformed."""
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
