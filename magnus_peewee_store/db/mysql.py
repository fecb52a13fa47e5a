"""MariaDB and MySQL, through PyMySQL or mysql-connector."""

import contextlib
import os
import re
import socket
from datetime import datetime
from typing import Any, ClassVar, Dict, FrozenSet, Iterator, List, Optional, Tuple

import peewee
from peewee import SQL, NodeList, fn
from playhouse.mysql_ext import MariaDBConnectorDatabase, MySQLConnectorDatabase

from magnus_peewee_store.db.base import (
    KEEPALIVE_INTERVAL,
    SILENCE_TIMEOUT,
    Backend,
)
from magnus_peewee_store.exceptions import CannotConnectError, ConfigurationError, PrivilegeError, RunLogStoreError

# https://dev.mysql.com/doc/refman/8.0/en/connection-options.html#option_general_ssl-mode
MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
VERIFYING = ("VERIFY_CA", "VERIFY_IDENTITY")


def find_mode(options: Dict[str, Any]) -> Optional[str]:
    """Return the TLS mode that the options of a connection string ask for; None if they leave it to the driver.

    A CA alone asks for VERIFY_CA, as with MySQL's own client.

    Raises:
        ValueError: If the options contradict each other, or if they seem to check the certificate but do not.
    """
    has_ca = bool(options.get("ssl_ca"))
    is_verifying = bool(options.get("ssl_verify_cert") or options.get("ssl_verify_identity"))
    mode = options.get("ssl_mode")
    if mode is not None:
        mode = str(mode).upper()
        if mode not in MODES:
            raise ValueError(f"ssl_mode is one of {', '.join(MODES)}")
        if "ssl" in options:
            raise ValueError("ssl and ssl_mode say the same. Write ssl_mode alone")
    elif "ssl" in options:
        if options["ssl"] not in (True, False):
            raise ValueError("ssl is true or false")
        if not options["ssl"]:
            mode = "DISABLED"
        elif not (has_ca or is_verifying):
            mode = "REQUIRED"
    if mode is None and has_ca and options.get("ssl_verify_cert") in (None, True):
        mode = "VERIFY_IDENTITY" if options.get("ssl_verify_identity") else "VERIFY_CA"
    if (is_verifying or mode in VERIFYING) and not has_ca:
        raise ValueError("The server's certificate is checked only with ssl_ca, the file of the CA that signed it")
    if mode is not None and mode not in VERIFYING and (has_ca or is_verifying):
        raise ValueError(f"{mode} does not check the server's certificate. Write ssl_mode=VERIFY_CA or VERIFY_IDENTITY")
    if has_ca and not os.path.isfile(str(options["ssl_ca"])):
        raise ValueError("The file that ssl_ca names does not exist")
    return mode


def driver_options(options: Dict[str, Any], mode: Optional[str]) -> Dict[str, Any]:
    """Return the options as PyMySQL and mysql-connector know them. Neither driver has an option for REQUIRED."""
    options = {name: value for name, value in options.items() if name not in ("ssl", "ssl_mode")}
    if mode == "DISABLED":
        options["ssl_disabled"] = True
    if mode in VERIFYING:
        options["ssl_verify_cert"] = True
    if mode == "VERIFY_IDENTITY":
        options["ssl_verify_identity"] = True
    return options


# An index of InnoDB holds at most 3,072 bytes, and a character of utf8mb4 has up to 4:
# https://dev.mysql.com/doc/refman/8.0/en/innodb-limits.html
COLUMN_TYPES = {
    "run_id": "VARCHAR(240)",
    "attribute_key": "VARCHAR(512)",
    "attribute_type": "VARCHAR(16)",
    "attribute_value": "LONGTEXT",
    "created_at": "DATETIME(6)",
}

IO_TIMEOUTS = ("read_timeout", "write_timeout")  # options of PyMySQL
LOCK_TIMEOUT = 10  # seconds
LOCK_WAIT_TIMEOUT = 1205
ERROR_DURING_COMMIT = 1180
DATABASE_DENIED = 1044
TABLE_DENIED = 1142
# In every language, the privileges come first and the table comes last.
DENIED = re.compile(r"(?P<privileges>[A-Z]{4,}\b(?:,? [A-Z]{4,}\b)*).*[`'](?P<table>[^`']+)[`']")


class MySQLBackend(Backend, peewee.MySQLDatabase):
    """MariaDB and MySQL."""

    peewee_class = peewee.MySQLDatabase
    settings = {"connect_timeout": 10}
    field_types = {
        **peewee.MySQLDatabase.field_types,
        **{name.upper(): column_type for name, column_type in COLUMN_TYPES.items()},
    }
    has_conflict_target = False
    extra = "mysql"
    # https://mariadb.com/kb/en/mariadb-error-codes/ and
    # https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html
    TRANSIENT_ERRORS: ClassVar[FrozenSet[int]] = frozenset(
        {
            1020,  # record has changed since last read: innodb_snapshot_isolation of MariaDB 11.6.2 and later
            1040,  # too many connections
            1047,  # a node of a cluster is not ready
            1053,  # server shutdown in progress
            1061,  # another node of a cluster has just created this index
            1203,  # the user has too many connections
            LOCK_WAIT_TIMEOUT,
            1213,  # deadlock, also between nodes
            1226,  # the user has exceeded a limit of connections
            1290,  # read-only during a failover
            1317,  # query interrupted
            1467,  # the next pk could not be read: one of two transactions in a deadlock
            1684,  # another session is changing the table's definition
            1836,  # read-only mode
            1927,  # connection was killed
            2002,  # cannot connect through the socket
            2003,  # cannot connect to the port
            2005,  # unknown host
            2006,  # server has gone away
            2013,  # lost connection during a query
            2055,  # lost connection
            3024,  # mysql-connector has waited in vain for an answer
            3032,  # server is in offline mode
            3101,  # Group Replication rolled the transaction back
            3796,  # the group has expelled this node
            3797,  # this node has waited in vain for what other nodes wrote
            4031,  # disconnected because of inactivity
            6400,  # this node has left the group of Group Replication
        }
    )

    def init(self, database: Optional[str], *args: Any, **options: Any) -> None:
        """Initialize the database as peewee does, with MySQL's own options for TLS.

        Raises:
            ConfigurationError: If the options for TLS are not valid.
        """
        try:
            mode = find_mode(options)
        except ValueError as error:
            raise ConfigurationError(f"The connection string {self.masked_url} is not valid: {error}.") from None
        self._requires_tls = mode == "REQUIRED" or mode in VERIFYING
        options = driver_options(options, mode)
        if isinstance(self, MySQLConnectorDatabase):
            # A signal cannot interrupt the driver's C extension, and it does not show its socket.
            options.setdefault("use_pure", True)
        elif mode == "REQUIRED":
            options["ssl"] = {"verify_mode": "none"}  # PyMySQL's form of REQUIRED
        super().init(database, *args, **options)

    @property
    def has_json_rows(self) -> bool:  # type: ignore[override]
        """True if the server has JSON_TABLE: https://mariadb.com/kb/en/json_table/."""
        return bool(self.server_version >= (10, 6) or not self._is_mariadb())

    def next_created_at(self, now: Any, newest: Any, ordinal: Any) -> Any:
        """Use GREATEST with COALESCE, because on MySQL GREATEST is NULL if any argument is NULL."""
        first = fn.GREATEST(now, fn.COALESCE(NodeList((newest, SQL("+ INTERVAL 1 MICROSECOND"))), now))
        return NodeList((first, SQL("+ INTERVAL"), ordinal, SQL("MICROSECOND"))) if ordinal else first

    def json_rows(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Use JSON_TABLE with texts of any length. The columns of `db_log` refuse texts that are too long."""
        text = "LONGTEXT CHARACTER SET utf8mb4 PATH"
        columns = (
            f"ordinal FOR ORDINALITY, attribute_type {text} '$[0]', "
            f"attribute_key {text} '$[1]', attribute_value {text} '$[2]'"
        )
        table = NodeList((SQL("JSON_TABLE("), document, SQL(f", '$[*]' COLUMNS ({columns})) AS new_rows")))
        names = ("attribute_type", "attribute_key", "attribute_value")
        return table, SQL("new_rows.ordinal"), [SQL(f"new_rows.{name}") for name in names]

    def now(self) -> datetime:
        """Return the time of the server in UTC."""
        [[now]] = self.execute_sql("SELECT UTC_TIMESTAMP(6)").fetchall()
        return now  # type: ignore[no-any-return]

    def version_string(self) -> str:
        """Return the version of the server."""
        [[version]] = self.execute_sql("SELECT VERSION()").fetchall()
        return str(version) if "MariaDB" in version else f"MySQL {version}"

    def binary(self, column: Any) -> Any:
        """Compare code points and trailing spaces, whatever collation the column has."""
        return NodeList((fn.CONVERT(NodeList((column, SQL("USING utf8mb4")))), SQL(f"COLLATE {self.collation()}")))

    @contextlib.contextmanager
    def run_lock(self, run_id: str) -> Iterator[None]:
        """Take a named lock. In a cluster it holds on one node only, so a table there needs the unique index."""
        # A digest, because a name has at most 64 characters. MD5 became an optional component in MySQL 9.6.
        name = (f"{self.database} {run_id}",)
        [[is_acquired]] = self.execute_sql(f"SELECT GET_LOCK(SHA2(%s, 224), {LOCK_TIMEOUT})", name).fetchall()
        if not is_acquired:
            raise peewee.OperationalError(LOCK_WAIT_TIMEOUT, f"Another session holds the lock on the run '{run_id}'")
        try:
            with self.atomic():
                yield
        finally:
            with contextlib.suppress(peewee.PeeweeException):  # A session that has ended holds no lock.
                self.execute_sql("SELECT RELEASE_LOCK(SHA2(%s, 224))", name)

    def is_transient(self, error: Exception) -> bool:
        """Decide by the connection's state, then by the error's code."""
        if isinstance(error, CannotConnectError):
            return error.is_transient
        if "CERTIFICATE_VERIFY_FAILED" in str(error):  # Its code is that of a lost connection.
            return False
        # PyMySQL closes its connection if it is lost.
        if not self.is_closed() and not getattr(self.connection(), "open", True):
            return True
        code, _ = _code_and_message(error)
        if code == ERROR_DURING_COMMIT:
            # Two nodes of Group Replication collided. A full disk has the same code, but another error in its message.
            return bool(re.search(r"\b149\b", str(error)))
        return code in self.TRANSIENT_ERRORS

    def explain(self, error: Exception) -> Optional[RunLogStoreError]:
        """Return an error with the GRANT to run, if the role lacks a privilege."""
        code, reason = _code_and_message(error)
        if code == DATABASE_DENIED:
            user = self.connect_params.get("user")
            grant = f"GRANT SELECT, INSERT, UPDATE ON `{self.database}`.* TO '{user}'@'%'"
            return PrivilegeError(
                f"Cannot connect to {self.masked_url}: {self.mask(reason)}. The database does not exist, or the role "
                f"has no privilege on it. Have an administrator run: {self.mask(grant)}"
            )
        denied = code == TABLE_DENIED and DENIED.search(reason)
        if not denied or self.is_closed():
            return None
        [[account]] = self.execute_sql("SELECT CURRENT_USER()").fetchall()
        user, _, host = account.rpartition("@")
        return self._privilege_error(
            f"{denied['privileges']} on the table {denied['table']}",
            f"GRANT {denied['privileges']} ON `{self.database}`.{denied['table']} TO '{user}'@'{host}'",
            reason,
        )

    def _is_mariadb(self) -> bool:
        return bool(self.server_version >= (10,))  # MySQL has no version 10.

    def collation(self) -> str:
        """Return a collation in which `a`, `A` and `a ` are three different keys."""
        return "utf8mb4_nopad_bin" if self._is_mariadb() else "utf8mb4_0900_bin"

    def _connect(self) -> Any:
        """Limit the time of the whole handshake. PyMySQL's connect_timeout ends as soon as the host has answered."""
        connect: Any = super()._connect  # type: ignore[misc,unused-ignore]
        is_pymysql = getattr(getattr(peewee, "mysql", None), "__name__", "") == "pymysql"
        if not is_pymysql or isinstance(self, (MySQLConnectorDatabase, MariaDBConnectorDatabase)):
            return connect()
        options = self.connect_params
        self.connect_params = {**dict.fromkeys(IO_TIMEOUTS, options["connect_timeout"]), **options}
        try:
            connection = connect()
        finally:
            self.connect_params = options
        for name in IO_TIMEOUTS:  # A statement may take longer.
            setattr(connection, f"_{name}", options.get(name))
        return connection

    def _initialize_connection(self, connection: Any) -> None:
        if isinstance(self, MySQLConnectorDatabase):
            # Its cursors call this before each statement, to ping. After an interrupt, the statement would read the
            # answer of the ping.
            connection.is_connected = lambda: True
        _notice_vanished_host(connection)
        cursor = connection.cursor()
        # READ COMMITTED takes no gap locks, which would deadlock the writers of one run.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        # Strict mode refuses a value that is too long; without it, some servers truncate the value. Other modes, as
        # ORACLE, change the syntax.
        cursor.execute("SET SESSION sql_mode = 'STRICT_TRANS_TABLES'")
        # The server's default may shorten what is read.
        cursor.execute("SET SESSION sql_select_limit = 18446744073709551615")
        # InnoDB does not detect every deadlock. The others end only with this timeout, which is 50 s by default.
        cursor.execute("SET SESSION innodb_lock_wait_timeout = 5")
        cursor.execute(
            "SHOW VARIABLES WHERE Variable_name IN "
            "('group_replication_group_name', 'innodb_snapshot_isolation', 'max_allowed_packet', "
            "'version', 'wsrep_on')"
        )
        variables = {str(name).lower(): value for name, value in cursor.fetchall()}
        self.max_packet = int(variables["max_allowed_packet"])
        # MariaDB tells MySQL's drivers that it is MySQL 5.5.5.
        self.server_version = tuple(map(int, re.findall(r"\d+", variables["version"])[:3]))
        if variables.get("innodb_snapshot_isolation") == "ON":
            # If it is on, a writer fails with error 1020 instead of waiting for the other writer.
            cursor.execute("SET SESSION innodb_snapshot_isolation = OFF")
        if variables.get("wsrep_on") == "ON":
            # Every statement sees what any node of the cluster has acknowledged before.
            cursor.execute("SET SESSION wsrep_sync_wait = 7")
        if variables.get("group_replication_group_name"):
            # The same on MySQL's Group Replication. There, a statement waits as long as an idle session may last.
            cursor.execute("SET SESSION group_replication_consistency = 'BEFORE', wait_timeout = 60")
        if self._requires_tls:
            # Older versions of PyMySQL connect without TLS if the server does not offer it.
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            [[_, cipher]] = cursor.fetchall()
            if not cipher:
                raise peewee.OperationalError("the server offers no TLS, which the connection string requires")
        cursor.close()


def _notice_vanished_host(connection: Any) -> None:
    """Set options of the socket, which no driver has. Only drivers in pure Python show their socket."""
    # PyMySQL's, or that of mysql-connector.
    driver_socket = getattr(connection, "_sock", None) or getattr(connection, "_socket", None)
    driver_socket = getattr(driver_socket, "sock", driver_socket)
    if driver_socket is None or driver_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    driver_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_INTERVAL,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL,
        "TCP_USER_TIMEOUT": SILENCE_TIMEOUT * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Not every system has all of them.
            driver_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _code_and_message(error: Exception) -> Tuple[Optional[int], str]:
    """Return the code and the message of an error of the server."""
    code = error.args[0] if error.args else None
    message = error.args[1] if len(error.args) > 1 else ""
    return code, str(message)
