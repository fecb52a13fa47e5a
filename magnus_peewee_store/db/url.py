"""Turn a connection string into a database: parse the URL, fill in secrets, mask it for messages."""

import logging
import os
import re
from importlib.util import find_spec
from string import Template
from typing import Any, Callable, Dict, List, Optional, Tuple, Type
from urllib.parse import ParseResult, parse_qsl, quote, unquote

import peewee
from playhouse import db_url

from magnus_peewee_store.db.base import MASK, RETRY_TIMEOUT, Backend, Target
from magnus_peewee_store.db.mysql import MySQLBackend
from magnus_peewee_store.db.postgresql import PostgresqlBackend
from magnus_peewee_store.db.sqlite import MEMORY, SqliteBackend
from magnus_peewee_store.exceptions import ConfigurationError

logger = logging.getLogger("magnus.db")

_PSYCOPG3 = "psycopg3"
# SQLAlchemy's URL schemes, mapped to those of playhouse. `postgresql` names no driver.
_ALIASES = {
    "mariadb": "mysql",
    "mariadb+mariadbconnector": "mariadbconnector",
    "mariadb+mysqldb": "mysql",
    "mariadb+pymysql": "mysql",
    "mysql+mariadbconnector": "mariadbconnector",
    "mysql+mysqlconnector": "mysqlconnector",
    "mysql+mysqldb": "mysql",
    "mysql+pymysql": "mysql",
    "postgresql+psycopg": _PSYCOPG3,
    "postgresql+psycopg2": "postgresql",
    "sqlite+pysqlite": "sqlite",
    # psycopg 3 prepares the statements that it repeats.
    **(dict.fromkeys(("postgres", "postgresql"), _PSYCOPG3) if peewee.psycopg else {}),  # type: ignore[attr-defined]
}

# The schemes of playhouse that the tests of this package cover.
_TESTED = ("mysql", "mysqlconnector", "postgres", "postgresql", _PSYCOPG3, "sqlite")
_POOL = "+pool"
# Schemes whose drivers no extra of this package installs: the driver's module, which is also the name of its package.
_DRIVERS = {"apsw": "apsw", "cysqlite": "cysqlite", "mariadbconnector": "mariadb"}

_HOST = r"""
    (?: [\w.${}-]* | \[ [\da-fA-F:.]+ \] )  # a name, an IPv4 address, a placeholder; or an IPv6 address in brackets
    (?: : (?: \d* | \$\w+ | \$\{\w+\} ) )?  # a port, which may be a placeholder
"""
_HOST_AND_PORT = re.compile(r"(?: \[ (?P<ipv6>[^\]]*) \] | (?P<name>[^:\[\]]*) ) (?: : (?P<port>\d*) )?", re.VERBOSE)
_SERVER_URL = re.compile(
    rf"""
    [\w+.-]+ ://
    (?: (?P<user> [^:@/?\#]* ) (?: : (?P<password> [^/?\#]* ) )? @ )?
    (?P<hosts> {_HOST} (?: , {_HOST} )* )
    / (?P<database> [^@?\#]+ )
    (?: \? (?P<query> [^@\#]* ) )?
    """,
    re.VERBOSE,
)
_FILE_URL = re.compile(r"[\w+.-]+:///(?P<path>[^?#]+)(?:\?mode=(?P<mode>ro))?")
_BRACED_PLACEHOLDER = re.compile(r"\$\{\w+\}")

GetSecret = Callable[[str], str]  # returns the secret of a name; raises KeyError if the name is unknown


def get_no_secret(name: str) -> str:
    """Raise KeyError, like a secrets handler that holds no secret."""
    raise KeyError(name)


class ConnectionString:
    """The URL of a database, such as `sqlite:///runs.db`, with or without `${placeholders}` for secrets.

    A secret is one part of the URL, or the whole of it. In the user and the password, it is taken literally, whatever
    characters it has. Placeholders follow `string.Template.safe_substitute`: a placeholder without a secret stays as
    it is, because a password may contain a `$`.

    Args:
        template: The text, with its placeholders.
        folder: The folder that holds the SQLite file, instead of the one that the URL names.
        base: The folder that a relative path of an SQLite file starts from, instead of the working folder.
    """

    def __init__(self, template: str, folder: str = "", base: str = "") -> None:
        self._template = template
        self._folder = folder
        self._base = base
        placeholder = Template.pattern.fullmatch(template)
        self._only_secret = (placeholder["named"] or placeholder["braced"] or "") if placeholder else ""

    @property
    def masked(self) -> str:
        """The text as messages may show it, without the query. `***` stands for what may be a password.

        `${name}` is a placeholder to everybody. `$name` may be a part of a password.
        """
        template = self._template
        if self._only_secret:
            return template
        scheme = template.partition("://")[0]
        database_class = _database_class(template)
        if database_class is None:
            return MASK
        if _is_sqlite(database_class) and "@" not in template.partition("://")[2].partition("/")[0]:
            return re.split("[?#]", template)[0]
        url = _SERVER_URL.fullmatch(template)
        if url is None:
            return f"{scheme}://{MASK}"  # What looks like a host may be the end of a password with an @.
        masked = template.partition("?")[0]
        for part in ("database", "hosts", "password", "user"):  # from right to left, so that the positions stay right
            if _may_hold_password(part, url[part] or ""):
                masked = masked[: url.start(part)] + MASK + masked[url.end(part) :]
        return masked

    def resolve(self, get_secret: GetSecret = get_no_secret) -> Target:
        """Parse the URL and fill in the secrets. Raise ConfigurationError, without secrets, if that is not possible."""
        secrets, missing = self._look_up(get_secret)
        masked_url = self.masked
        if missing:
            masked_url += f" (no secret is named {', '.join(missing)})"
        url = secrets.get(self._only_secret, self._template)
        database_class, parts = _parse(url, masked_url)
        if not self._only_secret:
            quoted = {name: quote(value, safe="") for name, value in secrets.items()}
            for name, text in parts.items():
                parts[name] = Template(text).safe_substitute(quoted if name in ("user", "password") else secrets)
        parameters = _file_arguments(parts, self._base) if "path" in parts else _server_arguments(parts)
        if not parameters.get("database"):
            raise _form_error(url, masked_url, database_class)
        if parts.get("path", "").startswith("~/") and os.path.lexists(parts["path"]):
            shown = self.masked.partition(":///")[2] or "~"  # Secrets may have filled in the path.
            raise ConfigurationError(
                f"The connection string {masked_url} names {os.path.expanduser(shown)}, but there is also "
                f"{os.path.abspath(shown)}, in a folder named ~. Move it, or write its absolute path."
            )
        if self._folder and _is_sqlite(database_class):
            parameters["database"] = os.path.join(self._folder, os.path.basename(parameters["database"]))
        scheme = _playhouse_scheme(url)
        if scheme == _PSYCOPG3:
            parameters["prefer_psycopg3"] = True  # Psycopg3Database itself forgets this when a secret changes.
        # If the whole text is one secret, each of its parts is a secret.
        hidden = [value for name, value in parameters.items() if self._only_secret or _may_hold_password(name, value)]
        texts = tuple(text for text in (*secrets.values(), *hidden) if text and isinstance(text, str))
        return Target(scheme, database_class, parameters, masked_url, texts, tuple(missing))

    def file_path(self, get_secret: GetSecret = get_no_secret) -> Optional[str]:
        """Return the absolute path of the SQLite file that the URL names, or `:memory:`, without opening it.

        If the scheme is that of a server, no secret is looked up: the secret may not be available here.

        Returns:
            The path; None for a server, or if the whole text is one secret that is missing.
        """
        if self._only_secret:
            if self._look_up(get_secret)[1]:
                return None
        elif not _is_sqlite(_parse(self._template, self.masked)[0]):
            return None
        target = self.resolve(get_secret)
        return str(target.parameters["database"]) if _is_sqlite(target.database_class) else None

    def _look_up(self, get_secret: GetSecret) -> Tuple[Dict[str, str], List[str]]:
        """Return the secrets by name, and the names without a secret, except those that may be a part of a password."""
        secrets: Dict[str, str] = {}
        missing: List[str] = []
        has_password = not self._only_secret and not _FILE_URL.fullmatch(self._template)
        for placeholder in Template.pattern.finditer(self._template):
            name = placeholder["named"] or placeholder["braced"]
            if name:
                try:
                    secrets[name] = get_secret(name)
                except KeyError:
                    if placeholder["braced"] or not has_password:
                        missing.append(name)
        return secrets, missing


def make_database(
    connection_string: str,
    get_secret: GetSecret = get_no_secret,
    retry_timeout: float = RETRY_TIMEOUT,
    folder: str = "",
    base: str = "",
) -> Backend:
    """Return the database that a connection string names. It connects when it is first used.

    Its class is the one that `playhouse.db_url` has for the scheme, mixed with the matching backend class. See
    `ConnectionString` for the other arguments.
    """
    url = ConnectionString(connection_string, folder, base)
    target = url.resolve(get_secret)
    if target.missing_secrets:
        names = ", ".join(target.missing_secrets)
        logger.warning("%s: no secret is named %s; the placeholder stays as it is", url.masked, names)
    if target.scheme not in _TESTED:
        logger.warning("%s: no test of this package covers the scheme %s://", url.masked, target.scheme)
    try:
        return backend_class(target.database_class)(lambda: url.resolve(get_secret), retry_timeout)
    except TypeError as error:  # Its message names the option.
        raise ConfigurationError(f"The connection string {target.masked_url} has an invalid option: {error}") from None


def _playhouse_scheme(url: str) -> str:
    scheme = url.partition("://")[0]
    return _ALIASES.get(scheme, scheme)


def _database_class(url: str) -> Optional[Type[peewee.Database]]:
    database_class: Optional[Type[peewee.Database]] = db_url.schemes.get(_playhouse_scheme(url))
    return database_class


def _is_sqlite(database_class: Type[peewee.Database]) -> bool:
    return issubclass(database_class, peewee.SqliteDatabase)


def _may_hold_password(part: str, text: Any) -> bool:
    """Return True if a part of a server's URL may hold a password or a piece of one."""
    literal = _BRACED_PLACEHOLDER.sub("", str(text))
    return bool(literal) if part == "password" else "$" in literal


def _parse(url: str, masked_url: str) -> Tuple[Type[peewee.Database], Dict[str, str]]:
    """Return the database class for a URL, and the parts of the URL by name."""
    scheme, separator, _ = url.partition("://")
    driver = _DRIVERS.get(_playhouse_scheme(url))
    if driver and not find_spec(driver):
        raise ConfigurationError(f"The scheme {scheme}:// needs a driver that is not installed: pip install {driver}")
    database_class = _database_class(url)
    if not separator or database_class is None:
        known = ", ".join(f"{name}://" for name in sorted({*db_url.schemes, *_ALIASES}) if not name.endswith(_POOL))
        raise ConfigurationError(
            f"The connection string {masked_url} does not begin with one of: {known}. "
            "For an SQLite file write sqlite:///runs.db. A secret can be one part of the URL, or the whole of it."
        )
    if scheme.endswith(_POOL):
        plain = scheme[: -len(_POOL)]
        raise ConfigurationError(
            f"The connection string {masked_url} asks for a pool, but a store uses one connection, and a forked "
            f"process would share those of a pool. Write {plain}:// instead of {scheme}://"
        )
    parts = (_FILE_URL if _is_sqlite(database_class) else _SERVER_URL).fullmatch(url)
    if parts is None:
        raise _form_error(url, masked_url, database_class)
    return database_class, parts.groupdict("")


def _form_error(url: str, masked_url: str, database_class: Type[peewee.Database]) -> ConfigurationError:
    scheme = url.partition("://")[0]
    if not _is_sqlite(database_class):
        return ConfigurationError(
            f"The connection string {masked_url} does not have the form {scheme}://user:password@host:port/database. "
            "In a user or password that it contains, write / ? # @ as %2F %3F %23 %40. "
            "A user or password that comes from a ${placeholder} needs no such escapes."
        )
    name = masked_url.partition("://")[2].strip("/") or "runs.db"
    return ConfigurationError(
        f"The connection string {masked_url} names no file, or contains a # or a ?. Write {scheme}:///{name} for a "
        f"file beside the pipeline, {scheme}:////path/to/{name} for an absolute path, or {scheme}:///{MEMORY} for a "
        "database in memory."
    )


def _file_arguments(parts: Dict[str, str], base: str) -> Dict[str, Any]:
    path = parts["path"]
    if path.startswith("~/"):
        path = os.path.expanduser(path)
    # The path is absolute, because the steps of a pipeline may change the working directory.
    options = {"read_only": True} if parts["mode"] else {}
    database = path if path in ("", MEMORY) else os.path.abspath(os.path.join(base, path))
    return {"database": database, **options}


def _server_arguments(parts: Dict[str, str]) -> Dict[str, Any]:
    """Return the arguments of the database class; without a database if a part is not valid."""
    hosts = [_HOST_AND_PORT.fullmatch(host) for host in parts["hosts"].split(",")]
    # libpq accepts several hosts, with a port for each.
    ports = ",".join(host["port"] or "" for host in hosts if host)
    given = {
        "user": unquote(parts["user"]),
        "password": unquote(parts["password"]),
        "host": ",".join(host["ipv6"] or host["name"] or "" for host in hosts if host),
        "port": int(ports) if ports.isdigit() else ports,
    }
    arguments = {name: value for name, value in given.items() if value}
    query = ParseResult("", "", f"/{parts['database']}", "", parts["query"], "")
    try:
        arguments.update(db_url.parseresult_to_dict(query))
    except ValueError:  # Its message quotes the query.
        return {}
    # As text, because playhouse has turned texts of digits into numbers.
    options = dict(parse_qsl(parts["query"], keep_blank_values=True))
    if "passwd" in arguments:  # PyMySQL's deprecated name
        arguments["password"] = arguments.pop("passwd")
        options["password"] = options["passwd"]
    arguments.update({name: options[name] for name in ("password", "schema") if name in options})
    return arguments if all(hosts) else {}


BACKENDS = (SqliteBackend, PostgresqlBackend, MySQLBackend)


def backend_class(database_class: Type[peewee.Database]) -> Type[Backend]:
    """Return a class that mixes a database class of peewee with the matching backend class."""
    backend = next(each for each in BACKENDS if issubclass(database_class, each.peewee_class))
    return type(database_class.__name__, (backend, database_class), {})
