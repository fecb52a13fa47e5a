"""SQLite, and network file systems, where its write-ahead log does not work."""

import contextlib
import logging
import operator
import os
import re
import sqlite3
import threading
import time
from datetime import datetime
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeVar, Union

import peewee
from peewee import SQL, NodeList, fn

from magnus_peewee_store.db.base import INEXACT, PARTIAL, TABLE, Backend
from magnus_peewee_store.exceptions import ConfigurationError, CorruptFileError, RunLogStoreError
from magnus_peewee_store.times import utcnow

logger = logging.getLogger("magnus.db")

MOUNT_TABLE = "/proc/self/mountinfo"

# The names of network file systems in Linux' mount table.
NETWORK_TYPES = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "vmhgfs"),
        *("fuse.beegfs", "fuse.blobfuse", "fuse.blobfuse2", "fuse.ceph", "fuse.ceph-fuse", "fuse.curlftpfs"),
        *("fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.grpcfuse", "fuse.juicefs"),
        *("fuse.JuiceFS", "fuse.mfs", "fuse.mount-s3", "fuse.mountpoint-s3", "fuse.quobyte", "fuse.rclone"),
        *("fuse.s3fs", "fuse.seaweedfs", "fuse.sshfs", "fuse.vmhgfs-fuse", "fuse.weed"),
    }
)

MEMORY = ":memory:"
# How many seconds SQLite itself waits for a lock. Python cannot interrupt this wait, so it is short and `retry` repeats
# it. SQLite's own wait is better than ours: with many writers, each pause in Python costs half of the throughput.
LOCK_WAIT = 1.0

T = TypeVar("T")
NETWORK_FAULTS = ("locking protocol", "disk I/O error", "database is locked")
NETWORK_ADVICE = (
    "Use a server, as in postgresql://user:password@host:5432/database, or a file in a local folder if all "
    "processes run on one machine."
)
# The microseconds since 1970 of a time as text, and back.
_MICROSECONDS = "(STRFTIME('%s', SUBSTR({0}, 1, 19)) * 1000000 + SUBSTR({0} || '000000', 21, 6))"  # %s would round
_AS_TEXT = "STRFTIME('%Y-%m-%d %H:%M:%S', time / 1000000, 'unixepoch') || PRINTF('.%06d', time % 1000000)"
_VIEW_VALUES = """
    CASE WHEN {0}.type IN ('integer', 'real') THEN {0}.value END AS value,
    CASE
        WHEN {0}.type IN ('true', 'false') THEN {0}.type
        WHEN {0}.type != 'real' OR CAST(CAST({0}.value AS TEXT) AS REAL) = {0}.value THEN CAST({0}.value AS TEXT)
        -- The text has 15 digits, which not always tell a number.
        WHEN CAST(PRINTF('%!.16g', {0}.value) AS REAL) = {0}.value THEN PRINTF('%!.16g', {0}.value)
        ELSE PRINTF('%!.17g', {0}.value)
    END AS text
"""
# Whether the text `digits` is a whole number as `metrics.is_iteration` knows it.
_IS_ITERATION = """
    digits != '' AND digits NOT GLOB '*[^0-9]*' AND LENGTH(digits) <= 18 AND (digits = '0' OR digits NOT GLOB '0*')
"""
_IS_SERIES = f"""
    CASE member.type WHEN 'object' THEN (
        SELECT COUNT(*) > 1 AND MIN({_IS_ITERATION})
        FROM (SELECT CASE WHEN key LIKE '-%' THEN SUBSTR(key, 2) ELSE key END AS digits FROM json_each(member.value))
    ) ELSE FALSE END
"""  # noqa: S608 - constants


class SqliteBackend(Backend, peewee.SqliteDatabase):
    """SQLite, configured for many writing processes, and for acknowledged writes to survive a power cut."""

    peewee_class = peewee.SqliteDatabase
    field_types = {**peewee.SqliteDatabase.field_types, **Backend.field_types}
    settings = {"check_same_thread": False, "pragmas": {"synchronous": "full"}}
    has_concurrent_writers = False
    longest_pause = 0.05
    has_json_rows = sqlite3.sqlite_version_info >= (3, 38)  # https://www.sqlite.org/json1.html, 2

    value_view = f"""
        CREATE VIEW {{view}} AS SELECT
            log.run_id AS run_id, log.attribute_key AS {{key_column}}, {_VIEW_VALUES.format("member")}
        FROM {{table}} AS log, json_each('[' || {{document}} || ']') AS member WHERE log.attribute_type IN ({{types}})
    """  # noqa: S608 - constants
    member_view = f"""
        CREATE VIEW {{view}} AS SELECT
            log.run_id AS run_id, log.attribute_key AS {{key_column}}, member.key AS {{member_column}},
            NULL AS iteration, {_VIEW_VALUES.format("member")}
        FROM {{table}} AS log, json_each({{document}}, '$.{{member}}') AS member
        WHERE log.attribute_type IN ({{types}}) AND NOT ({_IS_SERIES})
        UNION ALL SELECT
            log.run_id, log.attribute_key, member.key, CAST(point.key AS INTEGER), {_VIEW_VALUES.format("point")}
        FROM {{table}} AS log, json_each({{document}}, '$.{{member}}') AS member, json_each(member.value) AS point
        WHERE log.attribute_type IN ({{types}}) AND {_IS_SERIES}
    """  # noqa: S608 - constants

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._network_type: Optional[str] = None
        super().__init__(*args, lock_type="IMMEDIATE", **kwargs)

    def init(self, database: Optional[str], *args: Any, **kwargs: Any) -> None:
        """Initialize the database as peewee does, with a busy timeout."""
        super().init(database, *args, **{"timeout": min(self.retry_timeout, LOCK_WAIT), **kwargs})

    def next_created_at(self, now: Any, newest: Any, ordinal: Any) -> Any:
        """Add the microseconds as integers, because SQLite's date functions have a precision of milliseconds.

        This is no function in Python, because SQLite would replace a KeyboardInterrupt in it by an error of its own.
        """
        later = NodeList(
            (
                SQL(f"(SELECT {_AS_TEXT} FROM (SELECT MAX({_MICROSECONDS.format('now')}, "),  # noqa: S608 - constants
                SQL(f"COALESCE({_MICROSECONDS.format('newest')} + 1, 0)) +"),
                ordinal,
                SQL("AS time FROM (SELECT"),
                now,
                SQL("AS now,"),
                newest,
                SQL("AS newest)))"),
            )
        )
        return later if ordinal else peewee.Case(None, [(newest < now, now)], later)

    def json_rows(self, document: Any) -> Tuple[Any, Any, List[Any]]:
        """Use json_each."""
        values = [SQL(f"json_extract(new_rows.value, '$[{number}]')") for number in range(3)]
        return NodeList((fn.json_each(document), SQL("AS new_rows"))), SQL("new_rows.key"), values

    def json_fields(self, document: Any, paths: Sequence[Sequence[Union[str, int]]]) -> Any:
        """Use json_extract, so that Python does not parse the whole document."""
        if not self.has_json_rows:
            return document
        # NaN and Infinity are not valid JSON. json_extract would raise an error for them, or return null.
        values = fn.json_extract(document, *("$" + "".join(map(_path_part, path)) for path in paths))
        return peewee.Case(None, [(fn.json_valid(document), values)], document)

    def json_text(self, document: str, *path: Union[str, int]) -> str:
        """Use json_extract."""
        return f"CAST(json_extract({document}, '${''.join(map(_path_part, path))}') AS TEXT)"

    def to_offset(self, text: str) -> str:
        """Compare with the integer: SQLite has no regular expressions."""
        number = f"CAST({text} AS INTEGER)"
        return f"CASE WHEN CAST({number} AS TEXT) = {text} AND ABS({number}) < 100000 THEN {number} END"

    def to_utc(self, text: str, offset: str) -> str:
        """Use the modifiers of STRFTIME. Times have milliseconds."""
        return f"STRFTIME('%Y-%m-%d %H:%M:%f', {text}, (-{offset}) || ' seconds')"

    def seconds_between(self, start: str, end: str) -> str:
        """Use Julian days."""
        return f"ROUND((JULIANDAY({end}) - JULIANDAY({start})) * 86400, 3)"

    def exists(self) -> bool:
        """Return True if the file exists."""
        return self._is_in_memory() or os.path.exists(self.database)

    def now(self) -> datetime:
        """Return the time of this machine in UTC. All processes that use the file run on this machine."""
        return utcnow()

    def try_once(self, work: Callable[[], T], timeout: float) -> T:
        """Do as `Backend` does, with a busy timeout of `timeout` seconds."""

        def work_with_timeout() -> T:
            self.execute_sql(f"PRAGMA busy_timeout = {timeout * 1000:.0f}")
            result = work()
            self.execute_sql(f"PRAGMA busy_timeout = {self.timeout * 1000:.0f}")
            return result

        return super().try_once(work_with_timeout, timeout)

    def is_transient(self, error: Exception) -> bool:
        """Return True if another process holds a lock."""
        return super().is_transient(error) or (isinstance(error, peewee.OperationalError) and "locked" in str(error))

    def rollback(self) -> Any:
        """Roll back, unless SQLite has already done so, as it does when the disk is full."""
        return super().rollback() if self.is_closed() or self.connection().in_transaction else None

    def version_string(self) -> str:
        """Return the version of the SQLite library."""
        return f"SQLite {sqlite3.sqlite_version}"

    def table_size(self) -> int:
        """Return the size of the whole file."""
        [[size]] = self.execute_sql("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchall()
        return int(size)

    def explain(self, error: Exception) -> Optional[RunLogStoreError]:
        """Return an error for a damaged file, or for one on a network file system that failed."""
        reason = str(error)
        if self._network_type and any(text in reason for text in NETWORK_FAULTS):
            return ConfigurationError(
                f"The SQLite file of {self.masked_url} lies on a network file system ({self._network_type}), which "
                f"failed: {reason}. {NETWORK_ADVICE}"
            )
        if not any(text in reason for text in ("malformed", "is not a database")):
            return None
        return CorruptFileError(
            f"The SQLite file of {self.masked_url} is damaged, or is no SQLite file: {reason}. Restore a backup, or "
            "recover its rows with SQLite's own shell: sqlite3 FILE .recover | sqlite3 RECOVERED_FILE"
        )

    def binary(self, column: Any) -> Any:
        """Use the collation BINARY, whatever collation the column has."""
        return NodeList((column, SQL("COLLATE BINARY")))

    def is_narrow(self, column: Any) -> bool:
        """Return False: SQLite's integers have 64 bits."""
        return False

    def complete_columns(self, model: Any) -> None:
        """Copy the rows to a new table, because SQLite cannot change columns."""
        columns = ", ".join(model._meta.columns)
        self.execute_sql(f"ALTER TABLE {TABLE} RENAME TO {TABLE}_incomplete")
        model._schema.create_table()
        self.execute_sql(f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {TABLE}_incomplete")  # noqa: S608
        self.execute_sql(f"DROP TABLE {TABLE}_incomplete")

    def compares_bytes(self) -> bool:
        """Return False if the table's definition names a collation other than BINARY in any column."""
        [[definition]] = self.execute_sql("SELECT sql FROM sqlite_master WHERE name = ?", (TABLE,)).fetchall()
        return not re.search(r"\bcollate\W+(nocase|rtrim)\b", definition, re.IGNORECASE)

    def unusable_indexes(self) -> Dict[str, str]:
        """Return the indexes with a condition, or with a collation other than BINARY."""
        unusable = {}
        for name, is_partial in self.execute_sql("SELECT name, partial FROM pragma_index_list(?)", (TABLE,)).fetchall():
            collations = self.execute_sql("SELECT coll FROM pragma_index_xinfo(?) WHERE key", (name,)).fetchall()
            if is_partial:
                unusable[name] = PARTIAL
            elif any(collation != "BINARY" for (collation,) in collations):
                unusable[name] = INEXACT
        return unusable

    def drop_index(self, name: str) -> None:
        """Drop an index. The index of a constraint disappears when `complete_columns` replaces the table."""
        if not name.startswith("sqlite_autoindex"):
            super().drop_index(name)

    def discard_inherited_connection(self) -> None:
        """Discard the connection to a file. Keep a database in memory: the fork has copied it."""
        if self._is_in_memory():
            self.lock = threading.RLock()
        else:
            super().discard_inherited_connection()

    def _close(self, conn: sqlite3.Connection) -> None:
        """Roll back first: SQLite keeps the lock of a closed connection until its last statement is gone."""
        with contextlib.suppress(sqlite3.Error):
            conn.rollback()
        conn.close()

    def _drop(self) -> None:
        """Roll back in a database in memory, because closing would delete it."""
        if self._is_in_memory() and not self.is_closed():
            self._state.conn.rollback()
            self._state.set_connection(self._state.conn)
            self._is_idle = True
        else:
            super()._drop()

    def _update_target(self) -> bool:
        """Keep the file of the first connection, even if the working directory changes later."""
        return False

    def _is_in_memory(self) -> bool:
        return bool(self.database == MEMORY)

    def _before_connecting(self) -> None:
        if not self._is_in_memory():
            folder = os.path.dirname(self.database)
            os.makedirs(folder, exist_ok=True)
            if self._network_type is None:
                self._network_type = network_type(folder)
                if self._network_type:
                    logger.warning(
                        "The SQLite file of %s lies on a network file system (%s), where SQLite is slower, and safe "
                        "only if the file system locks files correctly. %s",
                        self.masked_url,
                        self._network_type,
                        NETWORK_ADVICE,
                    )

    def _initialize_connection(self, connection: sqlite3.Connection) -> None:
        # Otherwise one byte that is not UTF-8 would end each query for its row. `fragments.parse` reports it.
        connection.text_factory = operator.methodcaller("decode", "utf-8", "surrogateescape")
        # The write-ahead log needs shared memory, so it does not work across machines: https://www.sqlite.org/wal.html
        journal_mode = "delete" if self._network_type else "wal"
        give_up_at = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute(f"PRAGMA journal_mode = {journal_mode}")
                return
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):
                    return  # It can still be read.
                # SQLite ignores the busy timeout while another process switches the file's journal mode.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)


def _path_part(part: Union[str, int]) -> str:
    if isinstance(part, str):
        return f'."{part}"'
    return f"[{part}]" if part >= 0 else f"[#{part}]"


def network_type(folder: str) -> Optional[str]:
    """Return the type of a folder's network file system; None if it is local, unknown, or not on Linux."""
    try:
        with open(MOUNT_TABLE, encoding="utf-8", errors="surrogateescape") as table:
            return network_type_in_table(folder, table.read())
    except (OSError, IndexError, ValueError):
        return None


def network_type_in_table(folder: str, table: str) -> Optional[str]:
    """Find the type in Linux' mount table: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html."""
    path = os.path.join(os.path.realpath(folder), "")
    found, longest = "", 0
    for line in table.splitlines():
        fields, _, source = line.partition(" - ")
        mount_point = os.path.join(_unescape(fields.split(" ")[4]), "")
        # If there are several mounts at the same place, only the last one is visible.
        if path.startswith(mount_point) and len(mount_point) >= longest:
            found, longest = source.split(" ")[0], len(mount_point)
    return found if found in NETWORK_TYPES else None


def _unescape(text: str) -> str:
    """Decode a path of the mount table, in which octal numbers stand for spaces and other special characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
