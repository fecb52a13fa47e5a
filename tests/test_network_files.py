"""SQLite files on network file systems: which are recognized, and how they are used."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List

import peewee
import pytest

from magnus_peewee_store import ConfigurationError, DBStore, runs
from magnus_peewee_store.db import files
from magnus_peewee_store.db.files import network_type, network_type_in_table

CLUSTER = """\
21 26 0:19 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
26 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/rl-root rw,attr2,inode64,noquota
45 26 0:41 / /home rw,relatime shared:24 - nfs4 filer:/export/home rw,vers=4.2,hard,proto=tcp
46 45 0:44 / /home/scott/scratch rw,relatime shared:25 - xfs /dev/nvme0n1p1 rw
48 26 0:47 / /lustre/group rw,noatime shared:28 - lustre 10.0.0.1@o2ib:/work rw,flock,lazystatfs
50 26 0:48 / /gpfs/projects rw,relatime shared:30 - gpfs projects rw
52 26 0:50 / /mnt/beegfs rw,relatime shared:32 - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf
54 26 0:52 / /tmp rw,nosuid,nodev shared:34 - tmpfs tmpfs rw
"""
LAPTOP = """\
29 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
60 29 0:55 / /net rw,relatime shared:40 - autofs /etc/auto.net rw,fd=6,pgrp=900,timeout=300
61 60 0:56 / /net rw,relatime shared:41 - nfs filer:/vol0 rw,vers=3
62 29 0:57 / /mnt/my\\040share rw,relatime shared:42 - cifs //filer/my\\040share rw,vers=3.1.1
63 29 0:58 / /home/scott/remote rw,nosuid,nodev shared:43 - fuse.sshfs scott@host:/data rw,user_id=1000
64 29 0:59 / /run/user/1000/doc rw,nosuid,nodev shared:44 - fuse.portal portal rw,user_id=1000
65 29 0:60 / /media/usb rw,nosuid,nodev shared:45 - fuseblk /dev/sda1 rw,user_id=0
"""
CONTAINER = """\
700 600 0:120 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/l/A,upperdir=/u,workdir=/w
720 700 0:130 /runs /srv/runs rw,relatime master:310 - nfs4 10.96.0.7:/exports rw,vers=4.1
721 700 259:1 /var/lib/kubelet/pods/x /etc/hosts rw,relatime - ext4 /dev/root rw
"""
WSL = """\
78 65 8:32 / / rw,relatime - ext4 /dev/sdc rw,discard
90 78 0:45 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs;path=C:\\;uid=1000,access=client,trans=fd
"""


@pytest.mark.parametrize(
    ("table", "folder", "expected"),
    [
        (CLUSTER, "/home/scott/runs", "nfs4"),
        (CLUSTER, "/home", "nfs4"),
        (CLUSTER, "/homes/scott", None),
        (CLUSTER, "/home/scott/scratch/runs", None),
        (CLUSTER, "/lustre/group/team", "lustre"),
        (CLUSTER, "/gpfs/projects", "gpfs"),
        (CLUSTER, "/mnt/beegfs/x", "beegfs"),
        (CLUSTER, "/tmp", None),
        (CLUSTER, "/var/lib", None),
        (LAPTOP, "/net/team", "nfs"),
        (LAPTOP, "/mnt/my share/runs", "cifs"),
        (LAPTOP, "/home/scott/remote/runs", "fuse.sshfs"),
        (LAPTOP, "/home/scott/local", None),
        (LAPTOP, "/run/user/1000/doc", None),
        (LAPTOP, "/media/usb/runs", None),
        (CONTAINER, "/srv/runs/.run_log_store", "nfs4"),
        (CONTAINER, "/srv", None),
        (WSL, "/mnt/c/Users/scott", "9p"),
        (WSL, "/home/scott", None),
        ("", "/home", None),
    ],
)
def test_recorded_mount_tables(table: str, folder: str, expected: str) -> None:
    assert network_type_in_table(folder, table) == expected


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    table = f"1 1 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:41 / {tmp_path.resolve()}/share rw - nfs4 filer:/x rw\n"
    assert network_type_in_table(str(tmp_path / "link"), table) == "nfs4"
    assert network_type_in_table(str(tmp_path), table) is None


def test_folder_of_the_tests_is_local(tmp_path: Path) -> None:
    assert network_type(str(tmp_path)) is None


def test_missing_mount_table_counts_as_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOUNT_TABLE", str(tmp_path / "missing"))
    assert network_type(str(tmp_path)) is None


WRITERS = """
import subprocess, sys
from magnus_peewee_store import DBStore
store = DBStore(connection_string=f"sqlite:///{sys.argv[1]}/runs.db")
if len(sys.argv) == 2:
    store.create_run_log("run")
    writers = [subprocess.Popen([sys.executable, sys.argv[0], sys.argv[1], str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    print(store.database.journal_mode, len(store.get_parameters("run")))
else:
    for number in range(10):
        store.set_parameters("run", {f"{sys.argv[2]}-{number}": number})
store.close()
"""


def test_processes_share_file_on_mount_of_network_type(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("bindfs") or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root, /dev/fuse, and bindfs: apt-get install bindfs")
    folders = [tmp_path / name for name in ("source", "mount")]
    for folder in folders:
        folder.mkdir()
    source, mount = map(str, folders)
    (tmp_path / "writers.py").write_text(WRITERS)
    mounting = f"bindfs -o subtype=sshfs {source} {mount} && trap 'umount {mount}' EXIT"
    script = f"{mounting} && {sys.executable} {tmp_path}/writers.py {mount}"
    command = ["unshare", "--mount", "bash", "-c", script]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
    assert "network file system (fuse.sshfs)" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "delete 40"


@pytest.fixture
def network_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a mount of its own, whose type counts as that of a network file system."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs the mount /dev/shm of Linux")
    monkeypatch.setattr(files, "NETWORK_TYPES", {"tmpfs"})
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(str(folder))


@pytest.fixture
def local_folder() -> Iterator[Path]:
    """A folder outside of that mount, on which CI keeps its temporary files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    messages: List[str] = []
    monkeypatch.setattr(logging.getLogger("magnus.db"), "handle", lambda record: messages.append(record.getMessage()))
    return messages


def test_network_file_has_rollback_journal_and_one_warning(network_folder: Path, warnings: List[str]) -> None:
    store = DBStore(connection_string=f"sqlite:///{network_folder}/runs.db")
    store.create_run_log("run")
    assert store.database.journal_mode == "delete"
    store.close()
    other_store = DBStore(connection_string=f"sqlite:///{network_folder}/runs.db")
    for each in (store, other_store):
        each.set_parameters("run", {"x": 1})
    assert runs.check(store).is_healthy
    assert [path.name for path in network_folder.iterdir()] == ["runs.db"]
    other_store.close()
    store.close()
    about_the_network = [message for message in warnings if "network file system (tmpfs)" in message]
    assert len(about_the_network) == 2  # one for each store
    assert all("postgresql://" in message and "local folder" in message for message in about_the_network)


def test_file_that_moved_to_the_network_leaves_write_ahead_logging(
    local_folder: Path, network_folder: Path, warnings: List[str]
) -> None:
    store = DBStore(connection_string=f"sqlite:///{local_folder}/runs.db")
    store.create_run_log("run")
    assert store.database.journal_mode == "wal" and not warnings
    store.close()
    shutil.copy(str(local_folder / "runs.db"), str(network_folder / "runs.db"))
    store = DBStore(connection_string=f"sqlite:///{network_folder}/runs.db")
    assert store.get_run_log_by_id("run").run_id == "run"
    assert store.database.journal_mode == "delete"
    store.close()


def locked_call(folder: Path) -> None:
    """Use a store on a file that another connection has locked."""
    store = DBStore(connection_string=f"sqlite:///{folder}/runs.db", retry_timeout=0.1)
    store.create_run_log("run")
    other = sqlite3.connect(str(folder / "runs.db"), isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        store.set_parameters("run", {"x": 1})
    finally:
        other.close()
        store.close()


def test_locked_network_file_is_explained(network_folder: Path, warnings: List[str]) -> None:
    match = r"runs\.db lies on a network file system \(tmpfs\), which failed: database is locked\. Use a server"
    with pytest.raises(ConfigurationError, match=match):
        locked_call(network_folder)


def test_locked_local_file_is_not_blamed_on_a_network(tmp_path: Path) -> None:
    with pytest.raises(peewee.OperationalError, match="^database is locked$"):
        locked_call(tmp_path)


@pytest.mark.parametrize("reason", ["locking protocol", "disk I/O error"])
def test_fault_of_network_file_is_explained(network_folder: Path, warnings: List[str], reason: str) -> None:
    store = DBStore(connection_string=f"sqlite:///{network_folder}/runs.db")
    store.create_run_log("run")
    explanation = store.database.explain(peewee.OperationalError(reason))
    store.close()
    assert isinstance(explanation, ConfigurationError) and f"which failed: {reason}" in str(explanation)
