"""What all backends share: one connection per process, retries, forks, errors without secrets."""

import contextlib
import ctypes
import logging
import os
import random
import re
import sys
import threading
import time
import weakref
from datetime import datetime
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import peewee

from magnus_peewee_store.db.interrupts import as_peewee_error, find_interrupt, is_interrupt
from magnus_peewee_store.exceptions import CannotConnectError, PrivilegeError, RunLogStoreError

logger = logging.getLogger("magnus.db")

MASK = "***"

TABLE = "db_log"
RETRY_TIMEOUT = 60.0  # seconds
SHORTEST_CONNECT_TIMEOUT = 5  # seconds
FIRST_PAUSE = 0.05  # seconds
# After how many seconds of silence a host counts as gone, and how many pass before it is asked for a sign of life.
# Keepalives alone are not enough: none is sent while sent data is not acknowledged.
SILENCE_TIMEOUT = 30
KEEPALIVE_INTERVAL = 10

SHORTEST_WORD = 4  # A secret with fewer characters is masked only where a driver quotes it.
_QUOTED = r"(?<=[\"'`=:/]){}(?=[\"'`@/&;\s]|$)"

T = TypeVar("T")


class Target(NamedTuple):
    """The database that a connection string names, with its secrets filled in."""

    scheme: str
    """The scheme of the URL, as playhouse names it."""
    database_class: Type[peewee.Database]
    parameters: Dict[str, Any]
    """The arguments of the database class."""
    masked_url: str
    """The connection string as messages may show it."""
    secrets: Tuple[str, ...]
    """Texts that no message may show."""
    missing_secrets: Tuple[str, ...]
    """The names of placeholders without a secret."""


class Backend(peewee.Database):
    """What every backend adds to peewee's database class.

    All threads of a process share one connection and take turns. A forked child never uses its parent's connection.
    After an exception the state of a connection is unknown, so it is not used again. Transient errors are retried.
    Connection errors show the masked URL and no secret.

    `resolve` returns the database to connect to. It is called for each connection, because the passwords of cloud
    databases may be tokens that expire within minutes.
    """

    peewee_class: ClassVar[Type[peewee.Database]]
    field_types: Dict[str, str] = {
        "RUN_ID": "TEXT",
        "ATTRIBUTE_KEY": "TEXT",
        "ATTRIBUTE_TYPE": "TEXT",
        "ATTRIBUTE_VALUE": "TEXT",
        "CREATED_AT": "DATETIME",
    }
    settings: ClassVar[Dict[str, Any]] = {}  # arguments of each connection; the connection string can override them
    has_conflict_target = True  # whether ON CONFLICT names the unique columns
    has_json_rows = True
    has_concurrent_writers = True  # whether several transactions may write at the same time
    longest_pause = 5.0  # seconds between two attempts of `retry`
    has_ordered_locks = False  # whether SELECT ... ORDER BY ... FOR UPDATE locks the rows in this order
    max_packet: Optional[int] = None  # the largest statement that the server accepts, in bytes
    keeps_journal_mode = False  # whether SQLite's journal mode stays as it is, because nothing is created
    schema: Optional[str] = None  # the schema of the table, if the connection string sets one
    _state: Any  # peewee's state of the connection
    extra = ""  # the name of this package's extra that installs the driver

    def __init__(
        self, resolve: Callable[[], Target], retry_timeout: float = RETRY_TIMEOUT, **peewee_options: Any
    ) -> None:
        self._resolve = resolve
        self._target = resolve()
        self.retry_timeout = retry_timeout
        self.lock = threading.RLock()
        self.attempt = 0  # the number of the current attempt of `retry`
        self._handled: Optional[BaseException] = None  # what the caller of the current call is handling
        self._is_idle = True  # False while the connection is used, and if dropping it was interrupted
        # Only `_use` may connect.
        super().__init__(thread_safe=False, autoconnect=False, **peewee_options, **self._options())
        _backends.add(self)
        # magnus closes no store. Python and psycopg warn about a connection that is collected before it is closed.
        weakref.finalize(self, _close_collected, self._state).atexit = False

    @property
    def masked_url(self) -> str:
        """The connection string as messages may show it."""
        return self._target.masked_url

    def connect(self) -> bool:  # type: ignore[override,unused-ignore]
        """Connect, like `peewee.Database.connect`, with the current secrets.

        If the server refuses the connection and a secret has changed in the meantime, try once more.
        """
        self._update_target()
        try:
            return self._connect_once()
        except CannotConnectError as error:
            if error.is_transient or not self._update_target():
                raise
        return self._connect_once()

    def close(self) -> bool:
        """Close the connection, whatever state it is in. Return whether it was open."""
        was_open = not self.is_closed()
        if was_open:
            self._is_idle = False
            try:
                self._close(self._state.conn)  # type: ignore[attr-defined,unused-ignore]
            except Exception as error:
                if is_interrupt(error):
                    raise
            self.dispose()
        self._is_idle = True
        return was_open

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor, but none for a rollback after an interrupt: a driver may wait for ever for its answer."""
        error = sys.exc_info()[1]
        if error is not None and find_interrupt(error, self._handled) is not None:
            self._drop()
        return super().cursor(*args, **options)

    def retry(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run `work`, one statement or one transaction, retrying transient errors with backoff.

        An interrupted attempt may have taken effect, so `work` must be safe to run twice. `self.attempt` is the number
        of the attempt, from 0. An error is raised if it is still there `retry_timeout` seconds after it first occurred.
        """
        give_up_at = time.monotonic() + self.retry_timeout
        pause = 0.0
        attempt = 0
        while True:
            with self.lock:
                self.attempt = attempt
                result, transient_error = self._use(work, *args, **kwargs)
            if transient_error is None:
                return result  # type: ignore[no-any-return]
            is_connecting = isinstance(transient_error, CannotConnectError)
            if not attempt and self.has_concurrent_writers:
                # The first attempt may have waited for a host that is gone. On SQLite, it has waited for a lock.
                give_up_at = time.monotonic() + self.retry_timeout
            if time.monotonic() + pause >= give_up_at:
                if is_connecting:
                    message = f"{transient_error} (gave up after retry_timeout, {self.retry_timeout:g} s)"
                    transient_error.args = (message,)
                raise self._try_to_explain(transient_error) or transient_error
            if not attempt:
                where = "" if is_connecting else f"{self.masked_url}: "
                logger.warning("Retrying for up to %g s. %s%s", self.retry_timeout, where, str(transient_error).strip())
            time.sleep(pause)
            attempt += 1
            # Jitter, so that many waiting processes do not retry at the same moment.
            pause = min(2 * pause or FIRST_PAUSE, self.longest_pause) * random.uniform(0.7, 1.0)  # noqa: S311

    def _use(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Tuple[Any, Optional[Exception]]:
        """Call `work` with an open connection. Every use of the connection comes this way, and holds `lock`.

        Return what `work` returns and None, or None and a transient error. Raise what interrupted the call, even if a
        failing rollback has replaced it by another error.
        """
        # The caller may handle an exception, which is the context of those raised here.
        self._handled = handled = sys.exc_info()[1]
        # Otherwise an interrupt has prevented a drop, or a signal handler calls the store in the middle of a call.
        was_idle = self._is_idle
        if not was_idle:
            self._drop()
        self._is_idle = False
        try:
            if self.is_closed():
                self.connect()
            result = work(*args, **kwargs)
            if self.is_closed():
                raise peewee.InterfaceError("A signal handler used the connection in the middle of a call")
            self._is_idle = was_idle
            return result, None
        except Exception as error:
            interrupt = find_interrupt(error, handled)
            if interrupt is not None:
                raise interrupt  # noqa: B904 - it arrives as it was
            if self.is_closed() and isinstance(error, (peewee.InterfaceError, IndexError)):
                return None, error  # A signal handler has called the store. peewee's list of transactions is empty.
            error = as_peewee_error(error)
            if not isinstance(error, peewee.PeeweeException):
                raise
            # These need the connection's state, so they come before the drop.
            if self.is_transient(error):
                return None, error
            explanation = self._try_to_explain(error)
            if explanation is None:
                raise error
            raise explanation from error
        finally:
            if not self._is_idle:
                self._drop()

    def _drop(self) -> None:
        """Get rid of a connection whose state is unknown."""
        self.close()

    def _try_to_explain(self, error: Exception) -> Optional[RunLogStoreError]:
        """Do as `explain` does. Return None if the database raises an error while it is asked for details."""
        try:
            return self.explain(error)
        except peewee.PeeweeException:
            return None

    def try_once(self, work: Callable[[], T], timeout: float) -> T:
        """Run `work` once, without retries. Raise an error if another thread uses the connection.

        Wait `timeout` seconds for another thread, and in SQLite for another process.
        """
        lock = self.lock
        try:
            if not lock.acquire(timeout=timeout):
                raise peewee.OperationalError("Another thread uses the connection")
            result, transient_error = self._use(work)
        finally:
            with contextlib.suppress(RuntimeError):  # This thread did not get the lock.
                lock.release()
        if transient_error is not None:
            raise transient_error
        return result  # type: ignore[no-any-return]

    def is_transient(self, error: Exception) -> bool:
        """Return True for transient errors (restart, killed session, deadlock)."""
        return isinstance(error, CannotConnectError) and error.is_transient

    def explain(self, error: Exception) -> Optional[RunLogStoreError]:
        """Return an error that says what to do about a permanent error; None to raise the error itself."""
        return None

    def check_file(self) -> None:
        """Raise CorruptFileError if the database is a file that is damaged."""

    def quoted(self, name: str) -> str:
        """Return a name as SQL text, whatever characters it has."""
        first, last = self.quote[0], self.quote[1]
        return first + name.replace(last, 2 * last) + last

    def qualified(self, name: str) -> str:
        """Return the name of a table or sequence as SQL text, with its schema if the connection string sets one."""
        return name

    def discard_inherited_connection(self) -> None:
        """Discard the parent's connection in a forked child. The next use opens a new one."""
        self.lock = threading.RLock()
        if self.is_closed():
            return
        # Closing the connection, even at exit, would end the parent's session on a server. SQLite forbids it
        # (https://www.sqlite.org/howtocorrupt.html, 2.6). So this reference is leaked on purpose.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._state.conn))
        self.dispose()

    def exists(self) -> bool:
        """Return True if the database exists. Only SQLite creates it when it connects."""
        return True

    def now(self) -> datetime:
        """Return the time in UTC by the database's clock, without a time zone."""
        raise NotImplementedError

    def version_string(self) -> str:
        """Return the product's name and version."""
        raise NotImplementedError

    def next_created_at(self, now: Any, newest: Any, ordinal: Any) -> Any:
        """Return the SQL expression for created_at of a new row.

        It is `now`, or one microsecond after `newest` if that is later; plus `ordinal` microseconds.

        Args:
            now: The current time.
            newest: The newest created_at of the run; NULL if it has no rows.
            ordinal: The row's number among the new rows of the statement; 0 if it is the only one.
        """
        raise NotImplementedError

    def json_rows(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Return the SQL that turns a JSON text, `[[type, key, value], ...]`, into rows.

        Returns:
            The table for FROM, its column with the row's number, and its three columns with the row's values.
        """
        raise NotImplementedError

    def json_fields(self, document: Any, paths: Sequence[Sequence[Union[str, int]]]) -> Any:
        """Return the SQL expression for a JSON array: a document's values at paths, or null where there is none.

        The expression is the document itself if the document is not valid JSON. It is also the document if the server
        takes longer to find the values than to send the document.

        Args:
            document: The SQL expression for the JSON text.
            paths: For each value the keys and indexes that lead to it. Index -1 is the last.
        """
        return document

    def binary(self, column: Any) -> Any:
        """Return the SQL expression that compares a column of a legacy table byte for byte."""
        return column

    @contextlib.contextmanager
    def run_lock(self, run_id: str) -> Iterator[None]:
        """Open a transaction with an exclusive lock on the run, for a table without the unique index."""
        with self.atomic():
            yield

    def _update_target(self) -> bool:
        """Resolve the secrets again, and return whether that changed anything."""
        target = self._resolve()
        has_changed = target != self._target
        if has_changed:
            self._target = target
            self.init(**self._options())
        return has_changed

    def _options(self) -> Dict[str, Any]:
        """Return the arguments of the database class."""
        settings = dict(self.settings)
        if "connect_timeout" in settings:
            limit = max(self.retry_timeout, SHORTEST_CONNECT_TIMEOUT)
            settings["connect_timeout"] = int(min(settings["connect_timeout"], limit))
        return {**settings, **self._target.parameters}

    def _connect_once(self) -> bool:
        try:
            self._before_connecting()
            return bool(super().connect())
        except Exception as raised:
            error = as_peewee_error(raised)
            if not isinstance(
                error, (peewee.PeeweeException, AttributeError, OSError, RuntimeError, TypeError, ValueError)
            ):
                raise
            explanation = self.explain(error)
            if explanation is not None:
                self.close()
                raise explanation from None  # Not chained; see below.
            reason = self.mask(str(error).strip())
            if isinstance(error, peewee.ImproperlyConfigured):
                reason = f"its driver is not installed. Install magnus-peewee-store with its extra '{self.extra}'."
            if "certificate" in reason.lower():
                reason += ". Check the host name and the file of the CA in the connection string"
            is_transient = self.is_transient(error)
            self.close()
            # Not chained: the driver's own message may quote the password.
            raise CannotConnectError(f"Cannot connect to {self.masked_url}: {reason}", is_transient) from None

    def _privilege_error(self, privilege: str, command: str, reason: str) -> PrivilegeError:
        return PrivilegeError(
            f"The role lacks {privilege} in {self.masked_url}: {self.mask(reason)}. "
            f"Have an administrator run: {self.mask(command)}"
        )

    def mask(self, text: str) -> str:
        """Return a text without the secrets of the connection string."""
        for secret in sorted(self._target.secrets, key=len, reverse=True):
            # The driver's own words may contain a short secret. To mask them would tell the secret.
            pattern = "{}" if len(secret) >= SHORTEST_WORD else _QUOTED
            text = re.sub(pattern.format(re.escape(secret)), MASK, text)
        return text

    def _before_connecting(self) -> None:
        """Prepare a connection attempt."""


_backends: "weakref.WeakSet[Backend]" = weakref.WeakSet()


def _close_collected(state: Any) -> None:
    if not state.closed:
        with contextlib.suppress(Exception):
            state.conn.close()


def _discard_inherited_connections() -> None:
    for backend in _backends:
        backend.discard_inherited_connection()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_inherited_connections)
