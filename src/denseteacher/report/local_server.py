"""A page for this machine alone: an HTTP server that reads, and gives out what a fixed list names."""

import hashlib
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from denseteacher.errors import InputError

_MOST_CONNECTIONS = 32  # at once; a browser has six
_PATIENCE = 10.0  # seconds that a client may keep a connection without asking
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Content(NamedTuple):
    """What one address gives."""

    kind: str
    """MIME type."""
    data: bytes
    policy: str = _POLICY
    """Content-Security-Policy: by default nothing from elsewhere, and no script or style within the page."""


class LocalServer:
    """Serves a page from a thread of its own until it is closed; used as a context manager.

    It answers GET and HEAD. An address is looked up among those that ``find`` knows and never becomes a path; a request
    whose ``Host`` is not this machine is refused, since a web page elsewhere can give its own name this machine's
    address (DNS rebinding).
    """

    def __init__(self, find: Callable[[str], Content | None], *, host: str, port: int) -> None:
        """Opens the port and begins to answer.

        Args:
            find: What is served at a path such as ``/``; None where there is nothing. Called from several threads.
            host: Address or name to listen at.
            port: Port; 0 for any that is free.

        Raises:
            InputError: If there can't be listened.
        """
        self._server = _listening(find, host, port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host, port = str(self._server.server_address[0]), self._server.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def wait(self) -> None:
        """Waits until it is closed, or a KeyboardInterrupt comes."""
        self._thread.join()

    def close(self) -> None:
        """Ends it; what is being answered is not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_name(asked: str | None, host: str) -> bool:
    """Whether a ``Host`` header means this machine: by an address, as ``localhost``, or as it was told to listen.

    Addresses that are not this machine's own loopback count where the server listens at another than that; any port
    does, since a tunnel has its own.

    Args:
        asked: The header; None where there is none.
        host: Where the server was told to listen.
    """
    try:
        parts = urlsplit(f"//{asked or ''}")
        name, _ = parts.hostname, parts.port  # the port raises where it is not a number
    except ValueError:
        return False
    if name is None or parts.netloc != asked or parts.username is not None:
        return False
    if is_loopback(name):
        return True
    if is_loopback(host):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == host.lower()
    return True


def _listening(find: Callable[[str], Content | None], host: str, port: int) -> "_Server":
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port} is not a port: give one up to 65535, or 0 for any that is free")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _Server(find, host, family, address)
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not an address of this machine; 127.0.0.1 is") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"a page can't be served at {host}, port {port}: {reason}; choose another --port, or 0 for any that is free"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection would hold up the end

    def __init__(self, find: Callable[[str], Content | None], host: str, family: int, address: Any) -> None:
        self.find, self.told_host, self.address_family = find, host, family
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without the base class's question to DNS what the machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.told_host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that left is no concern of whoever reads the terminal."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def parse_request(self) -> bool:
        """Refuses what is not asked for by GET or HEAD, or of another host, before anything is looked up."""
        if not super().parse_request():
            return False
        if self.command not in ("GET", "HEAD"):
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "This page can only be read")
            return False
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not is_own_name(hosts[0], self.server.told_host):
            self.send_error(HTTPStatus.FORBIDDEN, "Open this page by the address that the monitor printed")
            return False
        return True

    def do_GET(self) -> None:
        try:
            found = self.server.find(self.path.partition("?")[0])
        except Exception:  # of a run that changes while it is read; the page asks again
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        tag = f'"{hashlib.sha256(found.data).hexdigest()[:32]}"'
        is_known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Security-Policy", found.policy)
        self.send_header("ETag", tag)
        if not is_known:
            self.send_header("Content-Length", str(len(found.data)))
        self.end_headers()
        if self.command == "GET" and not is_known:
            self.wfile.write(found.data)

    do_HEAD = do_GET

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers in plain text, without a word of the request."""
        safe = {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.FORBIDDEN}
        super().send_error(code, message if code in safe else HTTPStatus(code).phrase)

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")

    def version_string(self) -> str:
        return "denseteacher"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line a request would bury what a run says."""
