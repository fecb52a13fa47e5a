"""Detect network file systems, where SQLite's write-ahead log does not work."""

import ctypes
import os
import re
import sys
from typing import Optional

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

# `struct statfs` of macOS: https://github.com/apple-oss-distributions/xnu/blob/main/bsd/sys/mount.h
STATFS_SIZE = 2168
FLAGS = slice(64, 68)
TYPE_NAME = slice(72, 88)
MNT_LOCAL = 0x1000


def network_type(folder: str) -> Optional[str]:
    """Return the type of a folder's network file system; None if the file system is local or unknown."""
    try:
        if sys.platform == "darwin":
            return network_type_in_statfs(_statfs(folder))
        with open(MOUNT_TABLE, encoding="utf-8", errors="surrogateescape") as table:
            return network_type_in_table(folder, table.read())
    except (OSError, AttributeError, IndexError, ValueError):
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


def network_type_in_statfs(statfs: bytes) -> Optional[str]:
    """Find the type in macOS' `struct statfs`."""
    if int.from_bytes(statfs[FLAGS], sys.byteorder) & MNT_LOCAL:
        return None
    return statfs[TYPE_NAME].partition(b"\0")[0].decode()


def _statfs(folder: str) -> bytes:
    library = ctypes.CDLL(None, use_errno=True)
    # On Intel, the function with the plain name fills in an older struct, with inodes of 32 bits.
    statfs = getattr(library, "statfs$INODE64", None) or library.statfs
    buffer = ctypes.create_string_buffer(STATFS_SIZE)
    if statfs(os.fsencode(folder), buffer):
        raise OSError(ctypes.get_errno(), "statfs")
    return buffer.raw


def _unescape(text: str) -> str:
    """Decode a path of the mount table, in which octal numbers stand for spaces and other special characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
