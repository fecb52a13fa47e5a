"""Turn a connection string into a database: fill in secrets, parse the URL, mask it for messages."""

import contextlib
import logging
import os
import re
from string import Template
from typing import Any, Callable, Dict, List, Optional, Tuple, Type
from urllib.parse import parse_qsl, quote

import peewee
from playhouse import db_url

from magnus_peewee_store.db.base import MASK, RETRY_TIMEOUT, Backend, Target
from magnus_peewee_store.db.mysql import MySQLBackend
from magnus_peewee_store.db.postgresql import PostgresqlBackend
from magnus_peewee_store.db.sqlite import MEMORY, SqliteBackend
from magnus_peewee_store.exceptions import ConfigurationError

logger = logging.getLogger("magnus.db")

# SQLAlchemy's URL schemes, mapped to those of playhouse.
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

# The schemes of playhouse that the tests of this package cover.
_TESTED = ("mysql", "mysqlconnector", "postgres", "postgresql", "psycopg3", "sqlite")
_POOL = "+pool"

_HOST = r"""
    (?: [\w.${}-]* | \[ [\da-fA-F:.]+ \] )  # a name, an IPv4 address, a placeholder; or an IPv6 address in brackets
    (?: : (?: \d* | \$\w+ | \$\{\w+\} ) )?  # a port, which may be a placeholder
"""
_HOST_AND_PORT = re.compile(r"\[? (.*?) \]? (?: : (\d*) )?", re.VERBOSE)
_SERVER_URL = re.compile(
    rf"""
    (?P<scheme> [\w+.-]+ ) ://
    (?: (?P<credentials> (?P<user> [^:@/?\#]* ) (?: : (?P<password> [^/?\#]* ) )? ) @ )?
    (?P<hosts> {_HOST} (?: , {_HOST} )* )
    (?: / (?P<database> [^@?\#]* ) )?
    (?P<query> \? [^@\#]* )?
    """,
    re.VERBOSE,
)
_FILE_URL = re.compile(
    r"""
    (?P<scheme> [\w+.-]+ ) ://
    (?P<host> [^/?\#]* )
    (?: / (?P<path> [^?\#]* ) )?
    (?P<query> \? [^\#]* )?
    """,
    re.VERBOSE,
)

GetSecret = Callable[[str], str]


def get_no_secret(name: str) -> str:
    """Raise KeyError, like a secrets handler that holds no secret."""
    raise KeyError(name)


class ConnectionString:
    """The URL of a database, such as `sqlite:///runs.db`, with or without `${placeholders}` for secrets.

    Placeholders follow `string.Template.safe_substitute`: a placeholder without a secret stays as it is, because a
    password may contain a `$`. In the user and the password, a secret is taken literally, whatever characters it has.
    Elsewhere it becomes part of the URL. The whole string may be one secret.

    Args:
        template: The text, with its placeholders.
        folder: The folder that holds the SQLite file, instead of the one that the URL names.
    """

    def __init__(self, template: str, folder: str = "") -> None:
        self._template = template
        self._folder = folder

    @property
    def masked(self) -> str:
        """The text as messages may show it: with placeholders, with `***` for possible passwords, without the query."""
        template = self._template
        if not _literal_text(template):
            return template
        scheme = template.partition("://")[0]
        database_class = _database_class(scheme)
        if database_class is None:
            return MASK
        url = (_FILE_URL if _is_sqlite(database_class) else _SERVER_URL).fullmatch(template)
        if url is None or (url.re is _SERVER_URL and url["database"] is None and _literal_text(url["hosts"])):
            # Without a database the URL is not valid. What looks like its host may be the end of a password with an @.
            return f"{scheme}://{MASK}"
        masked = template[: url.start("query") if url["query"] else None]
        password = url.groupdict().get("password")
        if password and _literal_text(password):
            masked = masked[: url.start("password")] + MASK + masked[url.end("password") :]
        return masked

    def resolve(self, get_secret: GetSecret = get_no_secret) -> Target:
        """Fill in the secrets and parse the URL.

        Args:
            get_secret: Returns the secret of a name; raises KeyError if the name is unknown.

        Raises:
            ConfigurationError: If the text is not the URL of a database. The message contains no secret.
        """
        secrets, missing = self._look_up(get_secret)
        url = self._substitute(secrets)
        masked_url = self.masked
        if missing:
            masked_url += f" (no secret is named {', '.join(missing)})"
        database_class, parameters = _parse(url, masked_url)
        if self._folder and _is_sqlite(database_class):
            parameters["database"] = os.path.join(self._folder, os.path.basename(parameters["database"]))
        # If the whole text is one secret, each of its parts is a secret.
        literals = [parameters.get("password")] if _literal_text(self._template) else parameters.values()
        texts = tuple(text for text in (*secrets.values(), *literals) if text and isinstance(text, str))
        scheme = url.partition("://")[0]
        return Target(_ALIASES.get(scheme, scheme), database_class, parameters, masked_url, texts, tuple(missing))

    def file_path(self, get_secret: GetSecret = get_no_secret) -> Optional[str]:
        """Return the file that the URL names, without opening it.

        If the scheme is that of a server, no secret is looked up: the secret may not be available here.

        Args:
            get_secret: Returns the secret of a name; raises KeyError if the name is unknown.

        Returns:
            The absolute path of an SQLite file, or `:memory:`; None for a server, or if a missing secret contains
            the scheme.

        Raises:
            ConfigurationError: If the text is not the URL of a database. The message contains no secret.
        """
        database_class = _database_class(self._template.partition("://")[0])
        has_placeholders = _literal_text(self._template) != self._template
        if database_class and not _is_sqlite(database_class) and has_placeholders:
            return None
        secrets, missing = self._look_up(get_secret)
        url = self._substitute(secrets)
        if missing and not _database_class(url.partition("://")[0]):
            return None
        database_class, parameters = _parse(url, self.masked)
        return str(parameters["database"]) if _is_sqlite(database_class) else None

    def _look_up(self, get_secret: GetSecret) -> Tuple[Dict[str, str], List[str]]:
        secrets: Dict[str, str] = {}
        missing: List[str] = []
        for placeholder in Template.pattern.finditer(self._template):
            name = placeholder["named"] or placeholder["braced"]
            if name:
                try:
                    secrets[name] = get_secret(name)
                except KeyError:
                    missing.append(name)
        return secrets, missing

    def _substitute(self, secrets: Dict[str, str]) -> str:
        template = self._template
        url = _SERVER_URL.fullmatch(template)
        start, end = url.span("credentials") if url and url["credentials"] else (0, 0)
        quoted = {name: quote(value, safe="") for name, value in secrets.items()}
        return (
            Template(template[:start]).safe_substitute(secrets)
            + Template(template[start:end]).safe_substitute(quoted)
            + Template(template[end:]).safe_substitute(secrets)
        )


def make_database(
    connection_string: str,
    get_secret: GetSecret = get_no_secret,
    retry_timeout: float = RETRY_TIMEOUT,
    folder: str = "",
) -> Backend:
    """Return the database that a connection string names. It connects when it is first used.

    Args:
        connection_string: See `ConnectionString`.
        get_secret: Returns the secret of a name; raises KeyError if the name is unknown.
        retry_timeout: For how many seconds transient errors are retried.
        folder: The folder that holds the SQLite file, instead of the one that the connection string names.

    Returns:
        A database of the class that `playhouse.db_url` has for the scheme, mixed with the matching backend class.

    Raises:
        ConfigurationError: If the text is not the URL of a database. The message contains no secret.
    """
    url = ConnectionString(connection_string, folder)
    target = url.resolve(get_secret)
    if target.missing_secrets:
        names = ", ".join(target.missing_secrets)
        logger.warning("%s: no secret is named %s; the placeholder stays as it is", url.masked, names)
    if target.scheme not in _TESTED:
        logger.warning("%s: no test of this package covers the scheme %s://", url.masked, target.scheme)
    return backend_class(target.database_class)(lambda: url.resolve(get_secret), retry_timeout)


def _literal_text(template: str) -> str:
    """Return a template without its placeholders."""
    return Template.pattern.sub(lambda found: "" if found["named"] or found["braced"] else found[0], template)


def _database_class(scheme: str) -> Optional[Type[peewee.Database]]:
    database_class: Optional[Type[peewee.Database]] = db_url.schemes.get(_ALIASES.get(scheme, scheme))
    return database_class


def _is_sqlite(database_class: Type[peewee.Database]) -> bool:
    return issubclass(database_class, peewee.SqliteDatabase)


def _parse(url: str, masked_url: str) -> Tuple[Type[peewee.Database], Dict[str, Any]]:
    """Return the database class for a URL, and the arguments for the class. The secrets are already filled in."""
    scheme, separator, _ = url.partition("://")
    database_class = _database_class(scheme)
    if not separator or database_class is None:
        known = ", ".join(f"{name}://" for name in sorted({*db_url.schemes, *_ALIASES}) if not name.endswith(_POOL))
        raise ConfigurationError(
            f"The connection string {masked_url} does not begin with one of: {known}. "
            "For an SQLite file write sqlite:///runs.db"
        )
    if scheme.endswith(_POOL):
        plain = scheme[: -len(_POOL)]
        raise ConfigurationError(
            f"The connection string {masked_url} asks for a pool, but a store uses one connection, and a forked "
            f"process would share those of a pool. Write {plain}:// instead of {scheme}://"
        )
    parse = _parse_file if _is_sqlite(database_class) else _parse_server
    return database_class, parse(url, masked_url)


def _parse_server(url: str, masked_url: str) -> Dict[str, Any]:
    parts = _SERVER_URL.fullmatch(url)
    arguments: Dict[str, Any] = {}
    if parts:
        # libpq accepts several hosts, but playhouse accepts only one.
        has_several_hosts = "," in parts["hosts"]
        start, end = parts.span("hosts") if has_several_hosts else (0, 0)
        with contextlib.suppress(ValueError):  # Its message quotes the URL.
            arguments = db_url.parse(url[:start] + url[end:], unquote_password=True, unquote_user=True)
        if has_several_hosts:
            hosts = [_HOST_AND_PORT.fullmatch(host) for host in parts["hosts"].split(",")]
            names, ports = zip(*(host.groups("") for host in hosts if host))
            arguments.update(host=",".join(names), port=",".join(ports))
    if not arguments.get("database"):
        scheme = url.partition("://")[0]
        raise ConfigurationError(
            f"The connection string {masked_url} does not have the form {scheme}://user:password@host:port/database. "
            "In a user or password that it contains, write / ? # @ as %2F %3F %23 %40. "
            "A user or password that comes from a ${placeholder} needs no such escapes."
        )
    if "passwd" in arguments:
        arguments["password"] = arguments.pop("passwd")  # PyMySQL's deprecated name
    for name, value in parse_qsl((parts["query"] or "")[1:] if parts else ""):
        if name in ("password", "passwd"):
            arguments["password"] = value  # playhouse has turned a password of digits into a number
        elif name == "schema":
            arguments["schema"] = value
    return arguments


def _parse_file(url: str, masked_url: str) -> Dict[str, Any]:
    parts = _FILE_URL.fullmatch(url)
    if parts is None or parts["query"]:
        raise ConfigurationError(
            f"The connection string {masked_url} contains a # or a ?, which the URL of a file cannot contain. "
            "Give the file another name."
        )
    if parts["host"] or not parts["path"]:
        scheme, name = parts["scheme"], masked_url.partition("://")[2].strip("/") or "runs.db"
        raise ConfigurationError(
            f"The connection string {masked_url} names no file. Write {scheme}:///{name} for a file beside the "
            f"pipeline, {scheme}:////path/to/{name} for an absolute path, or {scheme}:///{MEMORY} for a database in "
            "memory."
        )
    arguments: Dict[str, Any] = db_url.parse(url)
    if arguments["database"] != MEMORY:
        # The path is absolute, because the steps of a pipeline may change the working directory.
        arguments["database"] = os.path.abspath(arguments["database"])
    return arguments


BACKENDS = (SqliteBackend, PostgresqlBackend, MySQLBackend)


def backend_class(database_class: Type[peewee.Database]) -> Type[Backend]:
    """Return a class that mixes a database class of peewee with the matching backend class."""
    backend = next(each for each in BACKENDS if issubclass(database_class, each.peewee_class))
    return type(database_class.__name__, (backend, database_class), {})
