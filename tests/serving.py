"""A web server of our own, which answers as it is told, over http or https."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTENT = bytes(range(256)) * 4096


@dataclass
class Site:
    """What the server answers, and what it was asked."""

    port: int = 0
    content: bytes = CONTENT
    kind: str = "application/octet-stream"
    mark: str = '"one"'
    ranges: bool = True
    status: int = 200
    location: str = ""
    sized: bool = True
    # Bytes after which the connection breaks off, once.
    breaks: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    origin: str = ""

    def address(self, name: str = "weights.bin") -> str:
        return f"{self.origin or f'http://127.0.0.1:{self.port}'}/{name}"


class Server(http.server.ThreadingHTTPServer):
    about: Site


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        about = self.server.about
        about.asked.append((self.path, self.headers.get("Range", "")))
        if "loop" in self.path or about.location:
            self.send_response(302)
            self.send_header("Location", about.location or self.path + "p")
            self.end_headers()
        elif about.status != 200:
            self.send_error(about.status)
        else:
            self._send(about, *self._chosen(about))

    def _chosen(self, about: Site) -> tuple[int, int]:
        asked, wanted = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        if asked and about.ranges and wanted == about.mark:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            return (416 if start >= len(about.content) else 206), start
        return 200, 0

    def _send(self, about: Site, status: int, start: int) -> None:
        if status == 416:
            self.send_error(416)
            return
        rest = about.content[start:]
        self.send_response(status)
        self.send_header("Content-Type", about.kind)
        if about.mark:
            self.send_header("ETag", about.mark)
        if status == 206:
            last = len(about.content)
            self.send_header("Content-Range", f"bytes {start}-{last - 1}/{last}")
        if about.sized:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: about.breaks.pop(0)] if about.breaks else rest)


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Site]:
    """Runs the server meanwhile; with a file of certificate and key, over https."""
    server = Server(("127.0.0.1", 0), Answer)
    server.about = Site(port=server.server_address[1])
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.about.origin = f"https://localhost:{server.about.port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.about
    server.shutdown()
    server.server_close()
