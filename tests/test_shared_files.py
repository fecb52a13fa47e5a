"""One SQLite file for several users: who may only read it never stops those who write it."""

import contextlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from click.testing import CliRunner
from conftest import Project, SqliteFile

from magnus_peewee_store import CannotConnectError, DBStore, cli, create_tables, open_store, runs
from magnus_peewee_store.db import files
from magnus_peewee_store.exceptions import MissingTableError, PrivilegeError

OWNER, COLLEAGUE, GROUP = 20001, 20002, 20000


class SharedFile:
    """An SQLite file with the mode 0644 of one user, in a folder that a group may write."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        os.chown(self.folder, OWNER, GROUP)
        self.folder.chmod(0o2775)
        self.path = self.folder / "runs.db"
        self.url = f"sqlite:///{self.path}"

    def write(self, *run_ids: str) -> None:
        """Write runs as the owner does, in a process of its own."""
        self.as_user(OWNER, lambda: write(DBStore(connection_string=self.url), *run_ids))

    def read(self) -> List[str]:
        """Return the ids of all runs, as the colleague sees them."""
        return self.as_user(COLLEAGUE, lambda: ids(DBStore(connection_string=self.url)))

    def as_user(self, user: int, work: Callable[[], Any]) -> Any:
        """Return the result of a function, or raise its exception, in a child process of a user."""
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([GROUP])
                os.setgid(GROUP)
                os.setuid(user)
                os.umask(0o022)
                os.chdir("/")
                result = True, work()
            except BaseException as error:
                result = False, error
            with contextlib.suppress(BaseException):
                os.write(sender, pickle.dumps(result))
            os._exit(0)
        os.close(sender)
        with open(receiver, "rb") as pipe:
            is_result, value = pickle.loads(pipe.read())
        os.waitpid(child, 0)
        if not is_result:
            raise value
        return value


def write(store: DBStore, *run_ids: str) -> None:
    with contextlib.closing(store):
        for run_id in run_ids:
            store.create_run_log(run_id)


def ids(store: DBStore) -> List[str]:
    with contextlib.closing(store):
        return [run.run_id for run in runs.list_runs(store, limit=100)]


@pytest.fixture
def shared_file() -> Iterator[SharedFile]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    file = SharedFile()
    try:
        yield file
    finally:
        shutil.rmtree(file.folder)


def test_reader_leaves_nothing_behind(shared_file: SharedFile) -> None:
    shared_file.write("first")
    assert shared_file.read() == ["first"]
    assert os.listdir(shared_file.folder) == ["runs.db"]
    shared_file.write("second")
    assert shared_file.read() == ["second", "first"]


def test_reader_sees_what_is_in_the_write_ahead_log(shared_file: SharedFile) -> None:
    shared_file.write("first")

    with contextlib.closing(sqlite3.connect(shared_file.path)) as owner:  # root keeps the owner of the side files
        owner.execute("SELECT 1 FROM db_log").fetchall()
        shared_file.write("second")
        assert (shared_file.folder / "runs.db-wal").stat().st_size
        assert shared_file.read() == ["second", "first"]
        assert {path.stat().st_uid for path in shared_file.folder.iterdir()} == {OWNER}


def test_reader_reads_again_if_a_writer_comes(shared_file: SharedFile) -> None:
    shared_file.write("first")

    def read() -> List[int]:
        database = DBStore(connection_string=shared_file.url).database
        counts = []

        def count_rows() -> None:
            [[count]] = database.execute_sql("SELECT COUNT(*) FROM db_log").fetchall()
            counts.append(count)
            if len(counts) == 1:
                os.write(begun, b".")
                os.read(written, 1)

        database.retry(count_rows)
        return counts

    (may_write, begun), (written, is_written) = os.pipe(), os.pipe()

    def write_meanwhile() -> None:
        os.read(may_write, 1)
        try:
            shared_file.write("second")
        finally:
            os.write(is_written, b".")

    writer = threading.Thread(target=write_meanwhile)
    writer.start()
    first, *others = shared_file.as_user(COLLEAGUE, read)
    writer.join()
    assert others and others[-1] == 2 * first
    assert {path.stat().st_uid for path in shared_file.folder.iterdir()} == {OWNER}


def test_reading_never_stops_the_owner(shared_file: SharedFile) -> None:
    shared_file.write("run 0")
    written = ["run 0"]

    def write_many() -> None:
        for number in range(1, 60):
            shared_file.write(f"run {number}")
            written.append(f"run {number}")

    writer = threading.Thread(target=write_many)
    writer.start()
    while writer.is_alive():
        before = set(written)
        assert before.issubset(shared_file.read())
    writer.join()
    assert len(written) == 60
    assert {path.stat().st_uid for path in shared_file.folder.iterdir()} == {OWNER}


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_lone_side_file_is_explained(shared_file: SharedFile, suffix: str) -> None:
    shared_file.write("first")
    Path(f"{shared_file.path}{suffix}").touch()
    store = DBStore(connection_string=shared_file.url, retry_timeout=0.1)
    with pytest.raises(PrivilegeError, match=f"runs.db{suffix} was left behind alone.*belongs to {OWNER}.*chmod g"):
        shared_file.as_user(COLLEAGUE, lambda: ids(store))


def test_writing_is_refused_with_file_and_owner(shared_file: SharedFile) -> None:
    shared_file.write("first")
    store = DBStore(connection_string=shared_file.url)
    with pytest.raises(PrivilegeError, match=f"{shared_file.path} belongs to {OWNER}.*chmod g.w {shared_file.path}"):
        shared_file.as_user(COLLEAGUE, lambda: write(store, "second"))
    assert os.listdir(shared_file.folder) == ["runs.db"]


def test_foreign_side_files_are_named(shared_file: SharedFile) -> None:
    shared_file.write("first")
    for suffix in ("-wal", "-shm"):
        path = Path(f"{shared_file.path}{suffix}")
        path.touch(mode=0o644)
        os.chown(path, COLLEAGUE, GROUP)
    with pytest.raises(PrivilegeError, match=f"runs.db-wal belongs to {COLLEAGUE}"):
        shared_file.write("second")


def test_users_of_a_group_write_one_file(shared_file: SharedFile) -> None:
    """The set-up that docs/databases.md describes."""
    shared_file.write("first")
    shared_file.path.chmod(0o664)
    store = DBStore(connection_string=shared_file.url)
    with contextlib.closing(sqlite3.connect(shared_file.path)) as other:
        other.execute("SELECT 1 FROM db_log").fetchall()
        shared_file.as_user(COLLEAGUE, lambda: write(store, "second"))
        shared_file.write("third")
    assert shared_file.read() == ["third", "second", "first"]


def test_file_in_a_read_only_folder_is_read(shared_file: SharedFile) -> None:
    shared_file.write("first")
    shared_file.path.chmod(0o666)
    shared_file.folder.chmod(0o755)
    assert shared_file.read() == ["first"]


def test_file_on_a_read_only_mount_is_read(shared_file: SharedFile) -> None:
    folder = shared_file.folder / "mount"
    folder.mkdir()
    shared_file.write("first")
    for command in (["mount", "--bind", str(shared_file.folder)], ["mount", "-o", "remount,ro,bind"]):
        if subprocess.run([*command, str(folder)], capture_output=True).returncode:
            pytest.skip("needs the right to mount")
    try:
        assert ids(open_store(connection_string=f"sqlite:///{folder}/runs.db")) == ["first"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_mode_ro_in_the_connection_string(shared_file: SharedFile) -> None:
    shared_file.write("first")
    store = DBStore(connection_string=f"{shared_file.url}?mode=ro")
    assert ids(store) == ["first"]
    with pytest.raises(PrivilegeError, match="mode=ro"):
        store.create_run_log("second")
    with pytest.raises(CannotConnectError, match="No such file"):
        DBStore(connection_string=f"{shared_file.url}x?mode=ro").get_run_log_by_id("first")
    assert os.listdir(shared_file.folder) == ["runs.db"]


def test_platform_without_such_locks_refuses(shared_file: SharedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_file.write("first")
    monkeypatch.setattr(files, "SET_FILE_LOCK", None)
    with pytest.raises(PrivilegeError, match=f"belongs to {OWNER}, who can .*chmod g.w"):
        shared_file.read()


# Journal modes


def journal_mode(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [[mode]] = connection.execute("PRAGMA journal_mode").fetchall()
    return str(mode)


def test_commands_that_read_change_no_journal_mode(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    create_tables(url)
    write(DBStore(connection_string=url), "run")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        other.execute("PRAGMA journal_mode = delete")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM db_log").fetchone()
        for command in (["runs"], ["show", "run"], ["check"]):
            result = CliRunner().invoke(cli.db, [*command, "--connection-string", url])
            assert result.exit_code == 0, result.output
    CliRunner().invoke(cli.db, ["runs", "--connection-string", url])
    assert journal_mode(tmp_path / "runs.db") == "delete"


def test_a_run_switches_the_journal_mode(tmp_path: Path) -> None:
    create_tables(f"sqlite:///{tmp_path}/runs.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        other.execute("PRAGMA journal_mode = delete")
    write(DBStore(connection_string=f"sqlite:///{tmp_path}/runs.db"), "run")
    assert journal_mode(tmp_path / "runs.db") == "wal"


# Removed files


@pytest.mark.parametrize("is_replaced", [True, False])
def test_write_to_a_removed_file_raises(sqlite_file: SqliteFile, tmp_path: Path, is_replaced: bool) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    if is_replaced:
        shutil.copy(sqlite_file.path, tmp_path / "copy.db")
        os.replace(tmp_path / "copy.db", sqlite_file.path)
    else:
        sqlite_file.path.unlink()
    with pytest.raises(MissingTableError, match="was removed or replaced while it was in use"):
        store.update_run_log_status("run", "SUCCESS")


@pytest.mark.parametrize("command", ["rm -r .run_log_store", "rm .run_log_store/run_log.db"])
def test_run_whose_file_is_removed_fails(project: Project, command: str) -> None:
    step = {"type": "task", "command_type": "shell", "command": command, "next": "success"}
    steps = {"clean": step, "success": {"type": "success"}, "fail": {"type": "fail"}}
    project.write(
        config_yaml={"run_log_store": {"type": "db"}}, pipeline_yaml={"dag": {"start_at": "clean", "steps": steps}}
    )
    assert "was removed or replaced" in project.execute("run", fails=True)
