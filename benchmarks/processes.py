"""The works that are done in processes of their own: a first call, and a pipeline from start to end."""

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
from benchmarks.contenders import OURS, RawDriver, upsert
from benchmarks.databases import Database, kind_of
from benchmarks.measuring import Effort, Rounds, shuffled
from benchmarks.results import Result

# A process of its own finds the same modules.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("MAGNUS_")},
    "PYTHONPATH": os.pathsep.join(
        [str(Path(magnus_peewee_store.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
}

TIMED = """
import time
started = time.perf_counter()
{script}
print(time.perf_counter() - started)
"""
OUR_FIRST_CALL = """
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


def first_call(database: Database, effort: Effort) -> Iterator[Result]:
    """The first call of a new process: what it imports, connects to, and writes."""
    url = database.fresh()
    with closing(RawDriver(url)) as raw:
        raw.fill(logs.run_log("run", 1))
    parts = urlsplit(url)
    connecting = CONNECTING[kind_of(url)].format(
        path=parts.path[1:],
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        database=parts.path[1:],
    )
    scripts = {
        OURS: OUR_FIRST_CALL.format(url=url, name=logs.step_name(1)),
        database.raw: RAW_FIRST_CALL.format(
            connecting=connecting,
            statement=upsert(url),
            row=logs.step_row(StepLog(name=logs.step_name(2), internal_name=logs.step_name(2))),
        ),
    }
    rounds = Rounds("first call of a new process", database)
    for number in range(effort.first_calls + 1):
        seconds = {
            name: float(
                run(sys.executable, "-c", TIMED.format(script=scripts[name]), folder=database.folder).split()[-1]
            )
            for name in shuffled(scripts)
        }
        if number:  # The first finds nothing compiled.
            rounds.add(seconds)
    yield rounds.compare(database.raw, at_most=1.3)


def pipeline(database: Database, effort: Effort) -> Iterator[Result]:
    """A pipeline of stub steps by magnus' own command."""
    names = [logs.step_name(number) for number in range(effort.pipeline)]
    steps: Dict[str, Any] = {name: {"type": "stub", "next": after} for name, after in zip(names, [*names[1:], "end"])}
    steps.update(end={"type": "success"}, fail={"type": "fail"})
    definition = {"dag": {"start_at": names[0], "steps": steps}}
    stores: Dict[str, Callable[[], Dict[str, Any]]] = {
        OURS: lambda: {"type": "db", "config": {"connection_string": database.fresh()}},
        "buffered": lambda: {"type": "buffered"},
    }
    rounds = Rounds(f"pipeline of {effort.pipeline} stub steps", database)
    for _ in range(effort.rounds):
        rounds.add({name: _execute(stores[name](), definition, database.folder) for name in shuffled(stores)})
    yield rounds.compare("buffered", at_most=1.05)


def _execute(store: Dict[str, Any], definition: Dict[str, Any], folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=str(folder)) as project:
        Path(project, "pipeline.yaml").write_text(json.dumps(definition), encoding="utf-8")
        Path(project, "config.yaml").write_text(json.dumps({"run_log_store": store}), encoding="utf-8")
        magnus = str(Path(sys.executable).parent / "magnus")
        started = time.perf_counter()
        run(magnus, "execute", "-f", "pipeline.yaml", "-c", "config.yaml", folder=Path(project))
        return time.perf_counter() - started


def run(*command: str, folder: Path) -> str:
    """Run a command to its end.

    Args:
        command: The command.
        folder: Where.

    Returns:
        What it prints.

    Raises:
        RuntimeError: If it fails; the message has what it printed.
    """
    done = subprocess.run(
        command, cwd=str(folder), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-5000:]}")
    return done.stdout
