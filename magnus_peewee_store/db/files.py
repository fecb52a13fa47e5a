"""The files of SQLite: who may write them, how others read them, and whether they lie on a network."""

import contextlib
import os
import re
import shlex
import struct
import sys
import time
from pathlib import Path
from typing import Optional, Tuple, Union
from urllib.parse import quote

import peewee

from magnus_peewee_store.exceptions import PrivilegeError

SIDE_FILES = ("-wal", "-shm", "-journal")

# SQLite's shared lock in the file: https://www.sqlite.org/src/file/src/os.h. And Linux' command for a lock that belongs
# to an open file instead of a process. Python names it since 3.9.
SHARED_LOCK = (0x40000002, 510)
SET_FILE_LOCK = 37 if sys.platform == "linux" else None

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
                    f"magnus db runs. {advise_owner(path)}"
                )
            time.sleep(0.01)

    def _lock(self, path: str) -> bool:
        """Try to lock the file. Return False if a writer holds it exclusively."""
        if SET_FILE_LOCK is None:
            raise PrivilegeError(
                f"On {sys.platform}, only a user who may write {path} can read it. {advise_owner(path)}"
            )
        import fcntl

        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, *SHARED_LOCK, 0)  # struct flock
        try:
            fcntl.fcntl(self._descriptor, SET_FILE_LOCK, lock)
        except (BlockingIOError, PermissionError):
            return False
        return True


def identity(path: str) -> Optional[Tuple[int, int]]:
    """Return the device and the inode of a file; None if it does not exist."""
    # os.stat, because closing a descriptor of the file would release SQLite's locks.
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # A time limit may be another OSError.
        return None
    return found.st_dev, found.st_ino


def may_write(path: str) -> bool:
    """Return True if this user may write a file or a folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def advise_owner(path: str) -> str:
    """Return who owns a path that this user may not write, and what the owner can do."""
    owner: Union[int, str] = os.lstat(path).st_uid
    with contextlib.suppress(KeyError, NotImplementedError):
        owner = Path(path).owner()
    return f"{path} belongs to {owner}, who can let the group write: chmod g+w {shlex.quote(path)}"


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
