"""A loopback HTTP server, a data folder of the test's own, and an account that may not write everywhere."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ccsi.data import download


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path.

    `requests` lists the paths asked for. Only the first `held_after` bytes of a file are sent before `release`
    is set; of a file in `cut` only that many bytes, although its full length is announced, for the first `cuts`
    requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.cuts = sys.maxsize
        self.requests: list[str] = []
        self.held_after: int | None = None
        self.release = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append(path)
        if path not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if len(self.server.requests) <= self.server.cuts:
            body = body[: self.server.cut.get(path)]
        first = len(body) if self.server.held_after is None else self.server.held_after
        try:
            self.wfile.write(body[:first])
            if body[first:]:
                self.server.release.wait(60)
                self.wfile.write(body[first:])
        except ConnectionError:  # the reader was killed: that is what some tests are about
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$CCSI_DATA; not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CCSI_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed download is tried again at once."""
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is refused at once: all go to a proxy that is not there (port 9, "discard")."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Inside it, this process may not write where permissions forbid it, even if root runs the tests."""

    @contextmanager
    def enter() -> Iterator[None]:
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(before)

    return enter
