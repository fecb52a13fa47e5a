"""SQLite, and network file systems, where its write-ahead log does not work."""

import contextlib
import logging
import operator
import os
import re
import shlex
import struct
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeVar, Union
from urllib.parse import quote

import peewee
from peewee import SQL, NodeList, fn

from magnus_peewee_store.db.base import INEXACT, PARTIAL, TABLE, Backend
from magnus_peewee_store.exceptions import (
    ConfigurationError,
    CorruptFileError,
    MissingTableError,
    PrivilegeError,
    RunLogStoreError,
)
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
NOT_UTF_8 = "Could not decode to UTF-8"  # begins an error of Python's driver
# What a reader gets while a writer creates or recovers the side files: https://www.sqlite.org/rescode.html.
UNFINISHED = ("SQLITE_READONLY_CANTINIT", "SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTLOCK")
SIDE_FILES = ("-wal", "-shm", "-journal")
# How many seconds SQLite itself waits for a lock. Python cannot interrupt this wait, so it is short and `retry` repeats
# it. SQLite's own wait is better than ours: with many writers, each pause in Python costs half of the throughput.
LOCK_WAIT = 1.0

# SQLite's shared lock in the file: https://www.sqlite.org/src/file/src/os.h. And Linux' command for a lock that belongs
# to an open file instead of a process. Python names it since 3.9.
SHARED_LOCK = (0x40000002, 510)
SET_FILE_LOCK = 37 if sys.platform == "linux" else None

sqlite3: Any = peewee.sqlite3  # type: ignore[attr-defined,unused-ignore]  # pysqlite3 if it is installed
T = TypeVar("T")
NETWORK_FAULTS = ("locking protocol", "disk I/O error", "database is locked")
# Of the texts in a file, sqlite3 decodes only those in SQLite's error messages strictly.
DAMAGES = ("malformed", "is not a database", "can't decode byte")
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
        self._guard: Optional[ReadGuard] = None
        self._identity: Optional[Tuple[int, int]] = None
        self._is_lenient = False  # whether to read bytes that are not UTF-8
        self._changes = 0  # how many rows the connection had changed when the file was last looked at
        self._is_outdated = False  # whether the last connection read a file that has changed meanwhile
        super().__init__(*args, lock_type="IMMEDIATE", **kwargs)

    def init(self, database: Optional[str], *args: Any, read_only: bool = False, **kwargs: Any) -> None:
        """Initialize the database as peewee does, with a busy timeout."""
        self._is_read_only = read_only
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

    def close(self) -> bool:
        """Close the connection, and then release the lock of a reader."""
        try:
            return super().close()
        finally:
            guard, self._guard = self._guard, None
            if guard:
                self._is_outdated = guard.is_outdated()
                guard.release()

    def _use(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Tuple[Any, Optional[Exception]]:
        """Do as `Backend` does. A reader's connection lasts for one call, which is repeated if the file has changed.

        A call that reads bytes which are not UTF-8 is repeated, too.
        """
        try:
            found = super()._use(work, *args, **kwargs)
        except (peewee.PeeweeException, RunLogStoreError) as error:
            if not self._is_outdated and (self._is_lenient or NOT_UTF_8 not in str(error)):
                raise
            self._is_lenient = self._is_lenient or NOT_UTF_8 in str(error)
            if not self.is_closed():  # a database in memory
                self._decode_all(self._state.conn)
        else:
            connection = self._state.conn
            if self._guard:
                self.close()
            elif connection is not None and connection.total_changes != self._changes:
                self._check_file()
            if not self._is_outdated:
                return found
        self._is_outdated = False
        return self._use(work, *args, **kwargs)

    def _decode_all(self, connection: Any) -> None:
        """Read bytes that are not UTF-8, too, of which `fragments.parse` says that the row cannot be read."""
        if self._is_lenient:  # It takes longer.
            connection.text_factory = operator.methodcaller("decode", "utf-8", "surrogateescape")

    def _check_file(self) -> None:
        """Check after a write that the path still leads to the file that was written."""
        self._changes = self._state.conn.total_changes
        if self._identity != _identity(self.database):
            self.close()
            raise MissingTableError(
                f"The SQLite file {self.database} was removed or replaced while it was in use. What was written "
                "since then is lost. Start a new run, or restore a backup."
            )

    def is_transient(self, error: Exception) -> bool:
        """Return True if another process holds a lock, or is about to create the side files that a reader needs."""
        is_locked = isinstance(error, peewee.OperationalError) and "locked" in str(error)
        code = getattr(getattr(error, "orig", None), "sqlite_errorname", "")  # since Python 3.11
        return super().is_transient(error) or is_locked or code in UNFINISHED

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
        if isinstance(error, RunLogStoreError):
            return error
        reason = str(error)
        if any(text in reason for text in ("readonly", "unable to open", "Permission denied")):
            return self._explain_denial(reason)
        if self._network_type and any(text in reason for text in NETWORK_FAULTS):
            return ConfigurationError(
                f"The SQLite file of {self.masked_url} lies on a network file system ({self._network_type}), which "
                f"failed: {reason}. {NETWORK_ADVICE}"
            )
        return self._damage(reason) if any(text in reason for text in DAMAGES) else None

    def check_file(self) -> None:
        """Run SQLite's own check of the file.

        Raises:
            CorruptFileError: If a page is damaged.
        """
        [[result]] = self.execute_sql("PRAGMA quick_check(1)").fetchall()
        if result != "ok":
            raise self._damage(result)

    def _damage(self, reason: str) -> CorruptFileError:
        return CorruptFileError(
            f"The SQLite file of {self.masked_url} is damaged, or is no SQLite file: {reason}. Restore a backup, or "
            "recover its rows with SQLite's own shell: sqlite3 FILE .recover | sqlite3 RECOVERED_FILE"
        )

    def _explain_denial(self, reason: str) -> Optional[PrivilegeError]:
        """Return an error that names the file or folder that this user may not write, and its owner."""
        if self._is_read_only:
            return PrivilegeError(f"The connection string of {self.database} says ?mode=ro: {reason}.")
        paths = (self.database, *(self.database + suffix for suffix in SIDE_FILES), os.path.dirname(self.database))
        for path in paths:
            if os.path.lexists(path) and not _may_write(path):
                return PrivilegeError(f"{self.database}: {reason}. {_advise_owner(path)}")
        return None

    def binary(self, column: Any) -> Any:
        """Use the collation BINARY, whatever collation the column has."""
        return NodeList((column, SQL("COLLATE BINARY")))

    def is_narrow(self, column: Any) -> bool:
        """Return False: SQLite's integers have 64 bits."""
        return False

    def complete_columns(self, model: Any) -> None:
        """Copy the rows to a new table, because SQLite cannot change columns. Views, triggers and indexes stay."""
        columns = ", ".join(model._meta.columns)
        attached = self.execute_sql(
            "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
            (TABLE,),
        ).fetchall()
        self.execute_sql("PRAGMA legacy_alter_table = ON")  # Otherwise, views and triggers would follow the old table.
        self.execute_sql(f"ALTER TABLE {TABLE} RENAME TO {TABLE}_incomplete")
        self.execute_sql("PRAGMA legacy_alter_table = OFF")
        model._schema.create_table()
        self.execute_sql(f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {TABLE}_incomplete")  # noqa: S608
        self.execute_sql(f"DROP TABLE {TABLE}_incomplete")
        for (statement,) in attached:
            self.execute_sql(statement)

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
            if self._guard:
                self._guard.release()
                self._guard = None

    def _close(self, conn: Any) -> None:
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

    def _connect(self) -> Any:
        if self._guard is None:
            return super()._connect()  # type: ignore[misc,unused-ignore]
        path, options = self.database, self.connect_params
        self.database, self.connect_params = self._guard.uri, {**options, "uri": True}
        try:
            return super()._connect()  # type: ignore[misc,unused-ignore]
        finally:
            self.database, self.connect_params = path, options

    def _before_connecting(self) -> None:
        if not self._is_in_memory():
            folder = os.path.dirname(self.database)
            if self._is_read_only or (self.exists() and not (_may_write(self.database) and _may_write(folder))):
                self._guard = ReadGuard(self.database, self.timeout)
            else:
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

    def _initialize_connection(self, connection: Any) -> None:
        self._decode_all(connection)
        self._identity, self._changes = _identity(self.database), 0
        if self._guard or (self.keeps_journal_mode and not self._network_type):
            return
        # The write-ahead log needs shared memory, so it does not work across machines: https://www.sqlite.org/wal.html
        journal_mode = "delete" if self._network_type else "wal"
        give_up_at = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute(f"PRAGMA journal_mode = {journal_mode}")
                return
            except sqlite3.OperationalError as error:
                # SQLite ignores the busy timeout while another process switches the file's journal mode.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)


class ReadGuard:
    """Lets a user read a file that this user may not write, and leaves nothing behind that stops its writers.

    SQLite's write-ahead log needs two files beside the database. A reader who creates them owns them, and nobody else
    can write. While the guard holds SQLite's shared lock, no writer removes these files. If they exist, SQLite opens
    the file read-only and creates nothing. If not, it opens the file as one that never changes. If somebody has begun
    to write meanwhile, `is_outdated` says so, and the caller must read again.

    Raises:
        PrivilegeError: If only one of the files exists, or this platform has no such lock.
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._wal = path + "-wal"
        self._is_immutable = False
        # Closing it releases all locks of this process on the file, except those of other guards.
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            if os.pread(self._descriptor, 2, 18) == b"\2\2":  # write-ahead log: https://www.sqlite.org/fileformat.html
                self._is_immutable = self._wait(path, time.monotonic() + timeout)
        except BaseException:
            self.release()
            raise
        self.uri = f"file:{quote(path)}?{'immutable=1' if self._is_immutable else 'mode=ro'}"

    def is_outdated(self) -> bool:
        """Return True if somebody may have written while the file was read. Call it after closing the connection."""
        return self._is_immutable and os.path.lexists(self._wal)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def _wait(self, path: str, give_up_at: float) -> bool:
        """Lock the file, and return True if it has no side files. A writer creates and removes them one by one."""
        while True:
            is_locked = self._lock(path)
            has_wal, has_shm = os.path.lexists(self._wal), os.path.lexists(path + "-shm")
            if is_locked and has_wal == has_shm:
                return not has_wal
            if time.monotonic() > give_up_at:
                if not is_locked:
                    raise peewee.OperationalError("database is locked")
                left = self._wal if has_wal else path + "-shm"
                raise PrivilegeError(
                    f"{path} cannot be read, because {left} was left behind alone. Have a user who may write both run "
                    f"magnus db runs. {_advise_owner(path)}"
                )
            time.sleep(0.01)

    def _lock(self, path: str) -> bool:
        """Try to lock the file. Return False if a writer holds it exclusively."""
        if SET_FILE_LOCK is None:
            raise PrivilegeError(
                f"On {sys.platform}, only a user who may write {path} can read it. {_advise_owner(path)}"
            )
        import fcntl

        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, *SHARED_LOCK, 0)  # struct flock
        try:
            fcntl.fcntl(self._descriptor, SET_FILE_LOCK, lock)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _identity(path: str) -> Optional[Tuple[int, int]]:
    """Return the device and the inode of a file; None if it does not exist."""
    # os.stat, because closing a descriptor of the file would release SQLite's locks.
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # A time limit may be another OSError.
        return None
    return found.st_dev, found.st_ino


def _may_write(path: str) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _advise_owner(path: str) -> str:
    """Return who owns a path that this user may not write, and what the owner can do."""
    owner: Union[int, str] = os.lstat(path).st_uid
    with contextlib.suppress(KeyError, NotImplementedError):
        owner = Path(path).owner()
    return f"{path} belongs to {owner}, who can let the group write: chmod g+w {shlex.quote(path)}"


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
