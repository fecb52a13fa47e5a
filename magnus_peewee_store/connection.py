"""From a connection string to a peewee database: its secrets, its parts, and what may be shown of it."""

import contextlib
import logging
import os
import re
from string import Template
from typing import Any, Callable, Dict, List, Optional, Tuple, Type
from urllib.parse import parse_qsl, quote

import peewee
from playhouse import db_url

from magnus_peewee_store.databases import (
    MASK,
    RETRY_SECONDS,
    ManagedDatabase,
    ManagedMySQL,
    ManagedPostgresql,
    ManagedSqlite,
)

logger = logging.getLogger("magnus.db")

MEMORY = ":memory:"

# SQLAlchemy's names for what playhouse has, as they stand in configurations written for it.
_ALIASES = {
    "mariadb": "mysql",
    "mariadb+mariadbconnector": "mariadbconnector",
    "mariadb+mysqldb": "mysql",
    "mariadb+pymysql": "mysql",
    "mysql+mariadbconnector": "mariadbconnector",
    "mysql+mysqlconnector": "mysqlconnector",
    "mysql+mysqldb": "mysql",
    "mysql+pymysql": "mysql",
    "postgresql+psycopg": "psycopg3",
    "postgresql+psycopg2": "postgresql",
    "sqlite+pysqlite": "sqlite",
}

_MANNERS: Dict[Type[peewee.Database], Type[ManagedDatabase]] = {
    peewee.SqliteDatabase: ManagedSqlite,
    peewee.PostgresqlDatabase: ManagedPostgresql,
    peewee.MySQLDatabase: ManagedMySQL,
}

_HOST = r"(?:[\w.${}-]*|\[[\da-fA-F:.]+\])(?::(?:\d*|\$\w+|\$\{\w+\}))?"
_HOST_AND_PORT = re.compile(r"\[?(.*?)\]?(?::(\d*))?")
_SERVER_URL = re.compile(
    r"(?P<scheme>[\w+.-]+)://"
    r"(?:(?P<credentials>(?P<user>[^:@/?#]*)(?::(?P<password>[^/?#]*))?)@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
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


def make_database(
    connection_string: str,
    get_secret: Callable[[str], str] = no_secrets,
    retry_seconds: float = RETRY_SECONDS,
    folder: str = "",
) -> ManagedDatabase:
    """Make the peewee database that a connection string names. It connects at its first use.

    Placeholders follow `string.Template.safe_substitute`: one that no secret answers to stays as it is, since a
    password may well hold a `$`. In the user and the password a secret is taken literally, whatever characters it
    has; everywhere else it becomes part of the URL. The whole string may be one secret.

    Args:
        connection_string: A URL such as `sqlite:///runs.db`, with or without `${placeholders}`.
        get_secret: Answers the name of a secret with its value, and raises KeyError where there is none.
        retry_seconds: How long a fault that passes is waited out.
        folder: The folder that an SQLite file is in, if not the one that the connection string names.

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

    base, parts = _parse(url, shown)
    if folder and _is_file(base):
        parts["database"] = os.path.join(folder, os.path.basename(parts["database"]))
    manners: Type[ManagedDatabase] = next(own for kind, own in _MANNERS.items() if issubclass(base, kind))
    database: ManagedDatabase = type(base.__name__, (manners, base), {})(**{**manners.settings, **parts})
    database.shown = shown
    secret_parts = [parts.get("password")] if _literal(connection_string) else parts.values()
    database.hidden = tuple(part for part in (*secrets.values(), *secret_parts) if part and isinstance(part, str))
    database.retry_seconds = retry_seconds
    if isinstance(database, peewee.SqliteDatabase):
        database.timeout = retry_seconds
    return database


def find_file(connection_string: str, get_secret: Callable[[str], str] = no_secrets) -> Optional[str]:
    """Tell which file a connection string names, without opening it.

    Of a string that plainly names a server, no secret is asked for: it need not be known where this is asked.

    Args:
        connection_string: The connection string, with or without `${placeholders}`.
        get_secret: Answers the name of a secret with its value, and raises KeyError where there is none.

    Returns:
        The absolute path of an SQLite file, or `:memory:`; None for a server, and where it takes a missing secret to
        tell.

    Raises:
        ConnectionStringError: If the string is not the URL of a database. No part of a secret is in the message.
    """
    base = _base(connection_string.partition("://")[0])
    if base and not _is_file(base) and _literal(connection_string) != connection_string:
        return None
    secrets, unknown = _look_up(connection_string, get_secret)
    url = _substitute(connection_string, secrets)
    if unknown and not _base(url.partition("://")[0]):
        return None
    base, parts = _parse(url, mask(connection_string))
    return str(parts["database"]) if _is_file(base) else None


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
    base = _base(scheme)
    url = (_FILE_URL if base and _is_file(base) else _SERVER_URL).fullmatch(connection_string)
    if url is None:
        return f"{scheme}://{MASK}" if base else MASK
    shown = connection_string[: url.start("query") if url["query"] else None]
    password = url.groupdict().get("password")
    if password and _literal(password):
        shown = shown[: url.start("password")] + MASK + shown[url.end("password") :]
    return shown


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


def _base(scheme: str) -> Any:
    """The class that playhouse has for a scheme, None if it has none."""
    return db_url.schemes.get(_ALIASES.get(scheme, scheme))


def _is_file(base: Any) -> bool:
    return issubclass(base, peewee.SqliteDatabase)


def _parse(url: str, shown: str) -> Tuple[Any, Dict[str, Any]]:
    """Split a URL, its secrets filled in, into its scheme's database class and what that takes."""
    scheme, separator, _ = url.partition("://")
    base = _base(scheme)
    if not separator or base is None:
        known = ", ".join(f"{name}://" for name in sorted({*db_url.schemes, *_ALIASES}))
        raise ConnectionStringError(
            f"The connection string {shown} begins with none of: {known}. An SQLite file is sqlite:///runs.db"
        )
    return base, _parse_file(url, shown) if _is_file(base) else _parse_server(url, shown)


def _parse_server(url: str, shown: str) -> Dict[str, Any]:
    parts = _SERVER_URL.fullmatch(url)
    arguments: Dict[str, Any] = {}
    if parts:
        # libpq takes several hosts, playhouse one.
        several = "," in parts["hosts"]
        start, end = parts.span("hosts") if several else (0, 0)
        with contextlib.suppress(ValueError):  # whose message quotes the URL
            arguments = db_url.parse(url[:start] + url[end:], unquote_password=True, unquote_user=True)
        if several:
            hosts = [_HOST_AND_PORT.fullmatch(host) for host in parts["hosts"].split(",")]
            names, ports = zip(*(host.groups("") for host in hosts if host))
            arguments.update(host=",".join(names), port=",".join(ports))
    if not arguments.get("database"):
        scheme = url.partition("://")[0]
        raise ConnectionStringError(
            f"The connection string {shown} is not of the form {scheme}://user:password@host:port/database. "
            "Characters like / ? # @ in a user or password that stands in it are percent-encoded (%2F %3F %23 %40); "
            "one that comes from a ${placeholder} is taken as it is."
        )
    if "passwd" in arguments:
        arguments["password"] = arguments.pop("passwd")  # the name of old, which PyMySQL warns of
    for name, value in parse_qsl((parts["query"] or "")[1:] if parts else ""):
        if name in ("password", "passwd"):
            arguments["password"] = value  # of which playhouse makes a number if it looks like one
    return arguments


def _parse_file(url: str, shown: str) -> Dict[str, Any]:
    parts = _FILE_URL.fullmatch(url)
    if parts is None or parts["query"]:
        raise ConnectionStringError(
            f"The connection string {shown} has a # or a ? in it, which the URL of a file cannot hold: "
            "give the file another name"
        )
    if parts["host"] or not parts["path"]:
        scheme, name = parts["scheme"], shown.partition("://")[2].strip("/") or "runs.db"
        raise ConnectionStringError(
            f"The connection string {shown} names no file. A file beside the pipeline is {scheme}:///{name}, "
            f"one with an absolute path {scheme}:////path/to/{name}, a database in memory {scheme}:///:memory:"
        )
    arguments: Dict[str, Any] = db_url.parse(url)
    if arguments["database"] != MEMORY:
        # The steps of a pipeline may change the working directory.
        arguments["database"] = os.path.abspath(arguments["database"])
    return arguments
