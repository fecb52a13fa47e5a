"""Damaged SQLite files: each command ends well or says that the file is damaged. `check` finds the damage."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from click.testing import CliRunner, Result
from conftest import SqliteFile, new_store
from logs import sample_run

from magnus_peewee_store import CorruptFileError, cli, runs

PAGE_SIZE = 2048
COMMANDS = [
    *("runs --params --metrics", "runs --where rows=3", "show r0", "show open", "diff r0 r1", "timeline r0 -o r0.html"),
    *("lineage abcdef", "export --all -o out", "copy --to sqlite:///copy.db", "tag r1 x", "mark-failed open --yes"),
    *("create-views", "create-tables", "prune --keep 0 --yes"),
]


@pytest.fixture
def pages(sqlite_file: SqliteFile) -> List[bytes]:
    """Return the pages of a small file with two runs that ended, and one that did not."""
    sqlite_file.sql(f"PRAGMA page_size = {PAGE_SIZE}")
    with new_store(sqlite_file.url) as store:
        store.put_run_log(sample_run("r0"))
        store.put_run_log(sample_run("r1", status="FAIL"))
        store.create_run_log("open", status="PROCESSING")
        runs.tag_run(store, "r0", "best")
    sqlite_file.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    content = sqlite_file.path.read_bytes()
    assert len(content) > 5 * PAGE_SIZE
    return [content[start : start + PAGE_SIZE] for start in range(0, len(content), PAGE_SIZE)]


def overwritten(page: bytes) -> bytes:
    return b"\xff" * len(page)


def with_wrong_bytes(page: bytes) -> bytes:
    generator = random.Random(1)
    return bytes(generator.randrange(256) if generator.random() < 0.01 else byte for byte in page)


def damaged_files(pages: List[bytes], damage: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Return the content of the file with each of its pages damaged in turn."""
    for number, page in enumerate(pages):
        yield b"".join([*pages[:number], damage(page), *pages[number + 1 :]])


def run_on(content: bytes, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run a command on a file in a new folder. The result has an exception only if the command ended in a traceback."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "runs.db").write_bytes(content)
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli.db, [*command.split(), "--connection-string", f"sqlite:///{folder}/runs.db"])
    assert isinstance(result.exception, (SystemExit, type(None))), (command, result.exception)
    return result


@pytest.mark.parametrize("damage", [overwritten, with_wrong_bytes])
def test_no_command_ends_in_a_traceback(
    pages: List[bytes], damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [
        run_on(content, command, tmp_path / f"{number} {command.split()[0]}", monkeypatch).output
        for number, content in enumerate(damaged_files(pages, damage))
        for command in COMMANDS
    ]
    assert any("is damaged" in output for output in outputs)


def test_check_finds_what_quick_check_finds(
    pages: List[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.db"
    for number, content in enumerate(damaged_files(pages, overwritten)):
        copy.write_bytes(content)
        result = run_on(content, "check", tmp_path / str(number), monkeypatch)
        assert ("is damaged" in result.output) == (not is_well(copy)), (number, result.output)
    assert run_on(b"".join(pages), "check", tmp_path / "well", monkeypatch).exit_code == 0


def is_well(path: Path) -> bool:
    connection = sqlite3.connect(str(path))
    try:
        return connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


# pysqlite3 is SQLite's driver of the standard library, with error classes and a version of its own.
PYSQLITE3 = """
import sqlite3, sys

loaded = {name: sys.modules.pop(name) for name in ("_sqlite3", "sqlite3", "sqlite3.dbapi2")}
from sqlite3.dbapi2 import *

sys.modules.update(loaded)
sqlite_version = "of pysqlite3"
"""
READ_DAMAGED = """
import sys
from peewee import sqlite3
from magnus_peewee_store import CorruptFileError, open_store, runs

assert sqlite3.__name__ == "pysqlite3.dbapi2"
store = open_store(connection_string=sys.argv[1])
assert store.database.version_string() == "SQLite of pysqlite3"
try:
    runs.read_run(store, "run")
except CorruptFileError:
    sys.exit()
sys.exit("The damage was not found")
"""


def test_errors_of_pysqlite3_are_known(sqlite_file: SqliteFile, tmp_path: Path) -> None:
    damage_rows(sqlite_file)
    (tmp_path / "pysqlite3").mkdir()
    (tmp_path / "pysqlite3" / "__init__.py").touch()
    (tmp_path / "pysqlite3" / "dbapi2.py").write_text(PYSQLITE3)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", READ_DAMAGED, sqlite_file.url], env=environment, check=True)


def damage_rows(sqlite_file: SqliteFile) -> None:
    with new_store(sqlite_file.url) as store:
        store.create_run_log("run")
        store.set_parameters("run", {f"parameter {number}": "x" * 1000 for number in range(100)})
    sqlite_file.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(sqlite_file.path.read_bytes())
    content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
    sqlite_file.path.write_bytes(content)


def test_damaged_file_error_says_how_to_recover(sqlite_file: SqliteFile) -> None:
    damage_rows(sqlite_file)
    with new_store(sqlite_file.url) as store, pytest.raises(CorruptFileError, match=r"runs\.db is damaged.*\.recover"):
        store.get_run_log_by_id("run", full=True)


def test_file_that_is_not_a_database_is_named(sqlite_file: SqliteFile) -> None:
    sqlite_file.path.write_text("not a database " * 100)
    with new_store(sqlite_file.url) as store, pytest.raises(CorruptFileError, match=r"runs\.db is .*no SQLite file"):
        store.create_run_log("run")
