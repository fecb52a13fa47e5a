"""Count statements with the trace callback of SQLite, and round trips with a proxy in front of a server."""

import contextlib
import socket
import sqlite3
import threading
from typing import Any, Callable, Iterator, List
from unittest import mock
from urllib.parse import urlsplit


class Counter:
    """A counter of statements or round trips."""

    count = 0

    def of(self, call: Callable[[], Any]) -> int:
        """Return by how much the count increases during a call."""
        before = self.count
        call()
        return self.count - before


@contextlib.contextmanager
def count_statements() -> Iterator[Counter]:
    """Count the statements of all SQLite connections opened in this context, including BEGIN and COMMIT."""
    counter = Counter()
    connect = sqlite3.connect

    def count(_: str) -> None:
        counter.count += 1

    def connect_traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(count)
        return connection

    with mock.patch("sqlite3.connect", connect_traced):
        yield counter


class RoundTrip:
    """The state of a connection: True if the server has answered the last request."""

    is_answered = True


class Proxy(Counter):
    """Forward bytes between clients and a server, and count the round trips.

    Args:
        url: The URL of a database on the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: List[socket.socket] = [self._listener]
        self.url = url.replace(f":{parts.port}/", f":{self._listener.getsockname()[1]}/")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                round_trip = RoundTrip()
                for source, sink, is_request in ((client, server, True), (server, client, False)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(
                        target=self._pump, args=(source, sink, round_trip, is_request), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, round_trip: RoundTrip, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                # Count before sending, so that the answer cannot arrive first.
                if is_request and round_trip.is_answered:
                    self.count += 1
                round_trip.is_answered = not is_request
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
