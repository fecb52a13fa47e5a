"""From a connection string to a peewee database: its secrets, what may be shown of them, each database's settings."""

import ctypes
import logging
import os
import re
import sqlite3
import threading
import time
import weakref
from string import Template
from typing import Any, Callable, ClassVar, Dict, List, Tuple
from urllib.parse import quote

import peewee
from playhouse import db_url

logger = logging.getLogger("magnus.db")

MASK = "***"

# Twenty processes that commit to one file, an fsync each, wait for one another for seconds; a minute is a fault.
SQLITE_BUSY_SECONDS = 60

_HOST = r"(?:[\w.${}-]*|\[[\da-fA-F:.]+\])(?::(?:\d*|\$\w+|\$\{\w+\}))?"
_SERVER_URL = re.compile(
    r"(?P<scheme>[\w+.-]+)://"
    r"(?:(?P<credentials>(?P<user>[^:@/?#]*)(?::(?P<password>[^/?#]*))?)@)?"
    rf"{_HOST}(?:,{_HOST})*"
    r"(?:/[^@?#]*)?(?P<query>\?[^@#]*)?"
)
_FILE_URL = re.compile(r"(?P<scheme>[\w+.-]+)://(?P<host>[^/?#]*)(?:/(?P<path>[^?#]*))?(?P<query>\?[^#]*)?")


class ConnectionStringError(ValueError):
    """A connection string that cannot be used as it stands; the message says what to write instead."""


def no_secrets(name: str) -> str:
    """Answer as a secrets handler that holds nothing.

    Args:
        name: The name of a secret.

    Raises:
        KeyError: Always.
    """
    raise KeyError(name)


def make_database(connection_string: str, get_secret: Callable[[str], str] = no_secrets) -> "ManagedDatabase":
    """Make the peewee database that a connection string names. It connects at its first use.

    Placeholders follow `string.Template.safe_substitute`: one that no secret answers to stays as it is, since a
    password may well hold a `$`. In the user and the password a secret is taken literally, whatever characters it
    has; everywhere else it becomes part of the URL. The whole string may be one secret.

    Args:
        connection_string: A URL such as `sqlite:///runs.db`, with or without `${placeholders}`.
        get_secret: Answers the name of a secret with its value, and raises KeyError where there is none.

    Returns:
        A database of the class that `playhouse.db_url` has for the scheme, with the manners of `ManagedDatabase`.

    Raises:
        ConnectionStringError: If the string is not the URL of a database. No part of a secret is in the message.
    """
    secrets, unknown = _look_up(connection_string, get_secret)
    url = _substitute(connection_string, secrets)
    shown = mask(connection_string)
    if unknown:
        logger.warning("%s: no secret is named %s, so the placeholder stays as it is", shown, ", ".join(unknown))
        shown += f" (where no secret is named {', '.join(unknown)})"

    scheme, parts = _parse(url, shown)
    base = db_url.schemes[scheme]
    manners = ManagedSqlite if issubclass(base, peewee.SqliteDatabase) else ManagedDatabase
    database: ManagedDatabase = type(base.__name__, (manners, base), {})(**{**parts, **manners.settings})
    database.shown = shown
    database.hidden = tuple(filter(None, (*secrets.values(), parts.get("password"), parts.get("passwd"))))
    return database


def mask(connection_string: str) -> str:
    """Give what may be shown of a connection string: no password, no query, and its placeholders unfilled.

    Args:
        connection_string: The connection string as it was configured.

    Returns:
        The string, with `***` for whatever might be, or might hold, a part of a password.
    """
    if not _literal(connection_string):
        return connection_string
    scheme = connection_string.partition("://")[0]
    url = (_FILE_URL if _is_file(scheme) else _SERVER_URL).fullmatch(connection_string)
    if url is None:
        return f"{scheme}://{MASK}" if scheme in db_url.schemes else MASK
    shown = connection_string[: url.start("query") if url["query"] else None]
    password = url.groupdict().get("password")
    if password and _literal(password):
        shown = shown[: url.start("password")] + MASK + shown[url.end("password") :]
    return shown


class ManagedDatabase(peewee.Database):
    """What every database of this package has on top of peewee's.

    One connection serves all threads of a process, one at a time (`lock`); a forked child leaves its parent's alone;
    and an error in connecting names the connection string as it may be shown, never a secret.
    """

    settings: ClassVar[Dict[str, Any]] = {"thread_safe": False}
    shown = MASK
    hidden: Tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = threading.RLock()
        _databases.add(self)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Connect, as peewee does.

        Args:
            reuse_if_open: Whether an open connection will do.

        Returns:
            Whether a new connection was opened.

        Raises:
            peewee.OperationalError: If that fails, for whatever reason.
        """
        try:
            self._before_connecting()
            return bool(super().connect(reuse_if_open))
        except (peewee.PeeweeException, OSError, TypeError, ValueError) as error:
            self.dispose()
            # Not chained: a driver's own words may quote what it was given.
            raise peewee.OperationalError(f"Cannot connect to {self.shown}: {self._hide(str(error))}") from None

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, the connection that belongs to the parent; the next use opens one of its own."""
        self.lock = threading.RLock()
        if self.is_closed():
            return
        # Freed, even at the child's exit, it would close: a server then ends the parent's session, and SQLite
        # forbids it (https://www.sqlite.org/howtocorrupt.html, 2.6). So the child never gives this reference back.
        inherited = self.connection()  # type: ignore[no-untyped-call]
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        self.dispose()

    def _before_connecting(self) -> None:
        """Do what a connection needs done first."""

    def _hide(self, text: str) -> str:
        for secret in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text


class ManagedSqlite(ManagedDatabase):
    """SQLite, set up for a crowd of processes and for an acknowledged write to outlast a power cut."""

    settings = {
        **ManagedDatabase.settings,
        "check_same_thread": False,
        "timeout": SQLITE_BUSY_SECONDS,
        "pragmas": {"synchronous": "full"},
        "lock_type": "IMMEDIATE",
    }

    def _before_connecting(self) -> None:
        if not self._in_memory():
            os.makedirs(os.path.dirname(self.database), exist_ok=True)

    def _initialize_connection(self, connection: sqlite3.Connection) -> None:
        give_up_at = time.monotonic() + SQLITE_BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):
                    return  # It can still be read from.
                # While others make the same switch, SQLite answers 'locked' at once, whatever the busy timeout.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)

    def leave_to_parent(self) -> None:
        """Leave the parent its connection, except to a database in memory: that one was copied by the fork."""
        if self._in_memory():
            self.lock = threading.RLock()
        else:
            super().leave_to_parent()

    def _in_memory(self) -> bool:
        return bool(self.database == ":memory:")


_databases: "weakref.WeakSet[ManagedDatabase]" = weakref.WeakSet()


def _leave_connections_to_parent() -> None:
    for database in _databases:
        database.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections_to_parent)


def _look_up(template: str, get_secret: Callable[[str], str]) -> Tuple[Dict[str, str], List[str]]:
    found: Dict[str, str] = {}
    unknown: List[str] = []
    for placeholder in Template.pattern.finditer(template):
        name = placeholder["named"] or placeholder["braced"]
        if name:
            try:
                found[name] = get_secret(name)
            except KeyError:
                unknown.append(name)
    return found, unknown


def _literal(template: str) -> str:
    """What of a template is not placeholders."""
    return Template.pattern.sub(lambda found: "" if found["named"] or found["braced"] else found[0], template)


def _substitute(template: str, secrets: Dict[str, str]) -> str:
    url = _SERVER_URL.fullmatch(template)
    start, end = url.span("credentials") if url and url["credentials"] else (0, 0)
    quoted = {name: quote(value, safe="") for name, value in secrets.items()}
    return (
        Template(template[:start]).safe_substitute(secrets)
        + Template(template[start:end]).safe_substitute(quoted)
        + Template(template[end:]).safe_substitute(secrets)
    )


def _is_file(scheme: str) -> bool:
    return issubclass(db_url.schemes.get(scheme, object), peewee.SqliteDatabase)


def _parse(url: str, shown: str) -> Tuple[str, Dict[str, Any]]:
    """Split a URL, its secrets filled in, into its scheme and what that scheme's database class takes."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in db_url.schemes:
        raise ConnectionStringError(
            f"The connection string {shown} names no database known here. "
            f"It starts with one of: {', '.join(f'{known}://' for known in sorted(db_url.schemes))}"
        )
    if _is_file(scheme):
        return scheme, _parse_file(url, shown)
    try:
        if _SERVER_URL.fullmatch(url):
            return scheme, db_url.parse(url, unquote_password=True, unquote_user=True)
    except ValueError:
        pass  # Its message quotes the URL.
    raise ConnectionStringError(
        f"The connection string {shown} is not of the form {scheme}://user:password@host:port/database. "
        "Characters like / ? # @ in a user or password that stands in it are percent-encoded (%2F %3F %23 %40); "
        "one that comes from a ${placeholder} is taken as it is."
    )


def _parse_file(url: str, shown: str) -> Dict[str, Any]:
    parts = _FILE_URL.fullmatch(url)
    if parts is None:
        raise ConnectionStringError(f"The connection string {shown} has a # in it, which a file's URL cannot hold.")
    if parts["host"] or not parts["path"]:
        scheme, name = parts["scheme"], shown.partition("://")[2].strip("/") or "runs.db"
        raise ConnectionStringError(
            f"The connection string {shown} names no file. A file beside the pipeline is {scheme}:///{name}, "
            f"one with an absolute path {scheme}:////path/to/{name}, a database in memory {scheme}:///:memory:"
        )
    arguments: Dict[str, Any] = db_url.parse(url)
    if arguments["database"] != ":memory:":
        # The steps of a pipeline may change the working directory.
        arguments["database"] = os.path.abspath(arguments["database"])
    return arguments
