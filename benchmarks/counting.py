"""How often a call goes to the database: by SQLite's own trace, and by a proxy before a server."""

import contextlib
import socket
import sqlite3
import threading
from typing import Any, Callable, Iterator, List
from unittest import mock
from urllib.parse import urlsplit


class Counter:
    """A count that goes up."""

    count = 0

    def of(self, work: Callable[[], Any]) -> int:
        """How far it goes up while some work is done."""
        before = self.count
        work()
        return self.count - before


@contextlib.contextmanager
def counted_statements() -> Iterator[Counter]:
    """Count the statements on every SQLite connection that is opened meanwhile, BEGIN and COMMIT too."""
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


class Turn:
    """Whose turn it is to speak on a connection."""

    answered = True


class Proxy(Counter):
    """Hands bytes on between a client and a server, and counts how often the client speaks after the server has.

    Args:
        url: The URL of a database on the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: List[socket.socket] = [self._listener]
        self.url = url.replace(f":{parts.port}/", f":{self._listener.getsockname()[1]}/")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._ends += [client, server]
                turn = Turn()
                for source, sink, asks in ((client, server, True), (server, client, False)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=(source, sink, turn, asks), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, turn: Turn, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                words = source.recv(65536)
                if not words:
                    break
                # Before they go on: the other side's next words come after these are counted.
                if asks and turn.answered:
                    self.count += 1
                turn.answered = not asks
                sink.sendall(words)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
