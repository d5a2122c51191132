"""The same page over a local server, for scans whose maps are too large for one file. Read-only, one folder, loopback."""

import ipaddress
import mimetypes
import re
from collections import OrderedDict
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import quote, unquote, urlsplit

from lesionwise.errors import InputError, LesionwiseError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import list_scans
from lesionwise.report.group import render_group
from lesionwise.report.page import render_scan
from lesionwise.report.payload import Blob
from lesionwise.report.privacy import without_paths
from lesionwise.report.scene import read_scene

KEPT_SCANS = 3
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_CHUNK = 1 << 20


class Pages:
    """Pages and arrays of the scans looked at last; the others are made again when asked for."""

    def __init__(self, out: Path, host: str) -> None:
        self.out, self.host = out, host
        self._kept: OrderedDict[str, tuple[str, dict[str, Blob]]] = OrderedDict()
        self._cohort: tuple[list[ScanName], str] | None = None
        self._lock = Lock()

    def scan(self, stem: str) -> tuple[str, dict[str, Blob]]:
        """The page of a scan and its arrays. Raises KeyError for a scan that is not there."""
        with self._lock:
            if stem not in self._kept:
                names = {name.stem: name for name in list_scans(self.out)}
                blobs: dict[str, Blob] = {}
                scene = read_scene(self.out, names[stem])
                html = render_scan(scene, address_fn=lambda key: f"/data/{quote(stem)}/{quote(key)}", blobs=blobs)
                self._kept[stem] = (html, blobs)
                while len(self._kept) > KEPT_SCANS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(stem)
            return self._kept[stem]

    def cohort(self) -> str:
        """The cohort's page, whose links lead to pages made when asked for; kept until a scan is added."""
        names = list_scans(self.out)
        with self._lock:
            if self._cohort is None or self._cohort[0] != names:
                self._cohort = (names, render_group(self.out, address_fn=lambda name: f"/scan/{quote(name.stem)}"))
            return self._cohort[1]

    def index(self) -> str:
        """Links to every finished scan."""
        links = "".join(
            f'<li><a href="/scan/{quote(name.stem)}">{escape(name.stem)}</a></li>' for name in list_scans(self.out)
        )
        cohort = '<p><a href="/cohort">The cohort</a>: figures, findings, what stands out</p>'
        return (
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>lesionwise</title>"
            "<body style='font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em'>"
            f"<h1>Scans</h1>{cohort}<ul>{links}</ul><p>Research use only, not a medical device.</p></body></html>"
        )


def confined(out: Path, relative: str) -> Path | None:
    """The file below `out` that an address names, None if it is not a file or lies outside (links are followed first)."""
    if "\0" in relative or "\\" in relative:
        return None
    root = out.resolve()
    try:
        path = (root / relative.lstrip("/")).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except OSError:  # a name too long for the file system
        return None


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that a Range header asks for; None to send everything (no, several or unreadable ranges).

    Raises ValueError if the range lies outside the file.

    >>> byte_range("bytes=-10", 100)
    (90, 99)
    """
    match = _RANGE.match(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(size - int(last), 0), size - 1
        if int(last) == 0:
            raise ValueError("An empty range was asked for.")
    else:
        start, stop = int(first), min(int(last), size - 1) if last else size - 1
    if start >= size or stop < start:
        raise ValueError("The range lies outside the file.")
    return start, stop


def make_server(out: Path, *, port: int = 0, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server that is bound but does not run yet. Raises InputError without a finished scan or if the port is taken."""
    out = Path(out)
    if not list_scans(out):
        raise InputError(f"Expected finished scans in {out}, found none.")
    pages = Pages(out, host)

    class Handler(_Handler):
        """Bound to one folder."""

    Handler.pages = pages
    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(f"Expected a free port on {host}, but {port} cannot be opened ({error.strerror}).") from error


def serve(
    out: Path, port: int = 0, host: str = "127.0.0.1", *, announce_fn: Callable[[str], object] | None = None
) -> None:
    """Serves until interrupted. `announce_fn` is told the address once the server listens."""
    with make_server(Path(out), port=port, host=host) as server:
        if announce_fn is not None:
            announce_fn(f"http://{host}:{server.server_address[1]}/ (Ctrl+C stops; read-only)")
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD only: there is no way to change anything."""

    pages: Pages
    protocol_version = "HTTP/1.1"
    server_version = "lesionwise"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers with a page, an array or a file."""
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the terminal belongs to the user."""

    def _answer(self) -> None:
        if not self._host_is_ours():
            return self._refuse(HTTPStatus.FORBIDDEN)
        try:
            parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        except ValueError:
            return self._refuse(HTTPStatus.BAD_REQUEST)
        match parts:
            case [""]:
                names = list_scans(self.pages.out)
                if len(names) == 1:
                    return self._page(names[0].stem)
                return self._send(self.pages.index().encode(), "text/html; charset=utf-8")
            case ["cohort"]:
                try:
                    return self._send(self.pages.cohort().encode(), "text/html; charset=utf-8")
                except LesionwiseError as error:
                    return self._explain(error)
            case ["scan", stem]:
                return self._page(stem)
            case ["data", stem, key]:
                found = self._scan(stem)
                if found is None or key not in found[1]:
                    return self._refuse()
                return self._send(found[1][key].data, "application/octet-stream")
            case ["files", *rest]:
                path = confined(self.pages.out, "/".join(rest))
                return self._refuse() if path is None else self._send_file(path)
        return self._refuse()

    def _page(self, stem: str) -> None:
        """A scan's page, or why there is none."""
        try:
            self._send(self.pages.scan(stem)[0].encode(), "text/html; charset=utf-8")
        except KeyError:
            self._refuse()
        except LesionwiseError as error:
            self._explain(error)

    def _explain(self, error: LesionwiseError) -> None:
        """What is wrong with the folder, as a sentence of plain text."""
        body = without_paths(str(error)).encode()
        self.send_response(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._headers(len(body), "text/plain; charset=utf-8")
        if self.command != "HEAD":
            self.wfile.write(body)

    def _scan(self, stem: str) -> tuple[str, dict[str, Blob]] | None:
        try:
            return self.pages.scan(stem)
        except (KeyError, LesionwiseError):
            return None

    def _host_is_ours(self) -> bool:
        """On loopback, only requests addressed to loopback: another site's name pointed at this machine is refused."""
        bound = self.pages.host
        if not _is_loopback(bound):
            return True
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:  # such as an address whose bracket is not closed
            return False
        return name in ("localhost", "127.0.0.1", "::1", bound)

    def _send_file(self, path: Path) -> None:
        size = path.stat().st_size
        try:
            asked = byte_range(self.headers.get("Range"), size)
        except ValueError:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, stop = asked or (0, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop}/{size}")
        self._headers(stop - start + 1, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        if self.command == "HEAD":
            return
        with open(path, "rb") as stream:
            stream.seek(start)
            left = stop - start + 1
            while left > 0 and (block := stream.read(min(_CHUNK, left))):
                self.wfile.write(block)
                left -= len(block)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self._headers(len(body), kind)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, length: int, kind: str) -> None:
        for key, value in (
            ("Content-Type", kind),
            ("Content-Length", str(length)),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(key, value)
        self.end_headers()

    def _refuse(self, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> None:
        self.send_response(status)
        self._headers(0, "text/plain")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
