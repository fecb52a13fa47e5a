"""Workloads that run in their own processes: a first call, and a complete pipeline."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator
from urllib.parse import urlsplit

from magnus.datastore import StepLog

import magnus_peewee_store
from benchmarks import logs
from benchmarks.databases import Database, dialect_of
from benchmarks.results import Result
from benchmarks.stores import THIS_STORE, RawDriver, upsert
from benchmarks.timing import Rounds, Settings, shuffled

# Child processes import the same version of the package.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("MAGNUS_")},
    "PYTHONPATH": os.pathsep.join(
        [str(Path(magnus_peewee_store.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
}

TIMED_SCRIPT = """
import time
start = time.perf_counter()
{script}
print(time.perf_counter() - start)
"""
STORE_FIRST_CALL = """
from magnus.datastore import StepLog
from magnus_peewee_store import DBStore
DBStore(connection_string={url!r}).add_step_log(StepLog(name={name!r}, internal_name={name!r}), "run")
"""
RAW_FIRST_CALL = """
import magnus.datastore, peewee
{connecting}
connection.cursor().execute({statement!r}, ("run", *{row!r}, "2026-01-01 12:00:00"))
"""
CONNECTING = {
    "sqlite": """
import sqlite3
connection = sqlite3.connect({path!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode = wal")
connection.execute("PRAGMA synchronous = full")
""",
    "postgresql": """
import psycopg
connection = psycopg.connect(
    host={host!r}, port={port!r}, user={user!r}, password={password!r}, dbname={database!r}, autocommit=True
)
""",
    "mysql": """
import pymysql
connection = pymysql.connect(
    host={host!r}, port={port!r}, user={user!r}, password={password!r}, database={database!r}, autocommit=True
)
""",
}


def first_call(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure the first call of a new process: import, connect and write."""
    url = database.new_url_with_table()
    with closing(RawDriver(url)) as raw:
        raw.write_run_log(logs.run_log("run", 1))
    parts = urlsplit(url)
    connecting = CONNECTING[dialect_of(url)].format(
        path=parts.path[1:],
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        database=parts.path[1:],
    )
    scripts = {
        THIS_STORE: STORE_FIRST_CALL.format(url=url, name=logs.step_name(1)),
        database.raw_driver_name: RAW_FIRST_CALL.format(
            connecting=connecting,
            statement=upsert(url),
            row=logs.step_row(StepLog(name=logs.step_name(2), internal_name=logs.step_name(2))),
        ),
    }
    rounds = Rounds("first call of a new process", database)
    for number in range(settings.first_calls + 1):
        seconds = {
            name: float(
                run(sys.executable, "-c", TIMED_SCRIPT.format(script=scripts[name]), folder=database.folder).split()[-1]
            )
            for name in shuffled(scripts)
        }
        if number:  # Not the first round, which compiles the modules.
            rounds.add(seconds)
    yield rounds.compare(database.raw_driver_name, at_most=1.3)


def pipeline(database: Database, settings: Settings) -> Iterator[Result]:
    """Measure a pipeline of stub steps, run by the magnus command."""
    names = [logs.step_name(number) for number in range(settings.pipeline)]
    steps: Dict[str, Any] = {
        name: {"type": "stub", "next": next_name} for name, next_name in zip(names, [*names[1:], "end"])
    }
    steps.update(end={"type": "success"}, fail={"type": "fail"})
    definition = {"dag": {"start_at": names[0], "steps": steps}}
    stores: Dict[str, Callable[[], Dict[str, Any]]] = {
        THIS_STORE: lambda: {"type": "db", "config": {"connection_string": database.new_url_with_table()}},
        "buffered": lambda: {"type": "buffered"},
    }
    rounds = Rounds(f"pipeline of {settings.pipeline} stub steps", database)
    for _ in range(settings.rounds):
        rounds.add({name: _execute(stores[name](), definition, database.folder) for name in shuffled(stores)})
    yield rounds.compare("buffered", at_most=1.05)


def _execute(store: Dict[str, Any], definition: Dict[str, Any], folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=str(folder)) as project:
        Path(project, "pipeline.yaml").write_text(json.dumps(definition), encoding="utf-8")
        Path(project, "config.yaml").write_text(json.dumps({"run_log_store": store}), encoding="utf-8")
        magnus = str(Path(sys.executable).parent / "magnus")
        start = time.perf_counter()
        run(magnus, "execute", "-f", "pipeline.yaml", "-c", "config.yaml", folder=Path(project))
        return time.perf_counter() - start


def run(*command: str, folder: Path) -> str:
    """Run a command in a folder and return its output.

    Raises:
        RuntimeError: If the command fails. The message contains the output.
    """
    result = subprocess.run(
        command, cwd=str(folder), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{result.stdout[-5000:]}")
    return result.stdout
