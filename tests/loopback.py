"""A real HTTP server on a free port of loopback, whose answers a test writes: honest ones, and every other kind."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes | Iterable[bytes]]


class Server:
    """Answers GET and HEAD with ``answer(path, query)``: status, headers, and the body or its pieces.

    A whole body is sent with its length; pieces are sent as they come, under whatever headers the test chose.
    """

    def __init__(
        self, answer: Callable[[str, dict[str, list[str]]], Answer], tls: ssl.SSLContext | None = None
    ) -> None:
        self.asked: list[tuple[str, str]] = []
        """Path with query, and the Accept header, of every request."""
        self.headers: list[dict[str, str]] = []
        """All headers of every request, by name in lower case."""
        asked, all_headers = self.asked, self.headers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Accept", "")))
                all_headers.append({name.lower(): value for name, value in self.headers.items()})
                parts = urlsplit(self.path)
                status, headers, body = answer(unquote(parts.path), parse_qs(parts.query))
                if isinstance(body, bytes):
                    headers, body = {**headers, "Content-Length": str(len(body))}, [body]
                # A client hangs up on a liar, which is no error of this server.
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for piece in body if self.command == "GET" else ():
                        self.wfile.write(piece)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http{'s' * bool(tls)}://127.0.0.1:{self.port}"
        if tls:
            # The handshake belongs to the thread that answers: whoever stalls it stalls nobody else.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
