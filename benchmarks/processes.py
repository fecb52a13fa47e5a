"""The works that are done in processes of their own: a first call, and a pipeline from start to end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator
from urllib.parse import urlsplit

import magnus_peewee_store
from benchmarks import logs
from benchmarks.contenders import OURS, ours, statements
from benchmarks.databases import Database, kind_of
from benchmarks.measuring import Effort, Result, Rounds
from benchmarks.results import ratio_at_most

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


def first_call(database: Database, effort: Effort, folder: Path) -> Iterator[Result]:
    """The first call of a new process: what it imports, connects to, and writes."""
    raw = f"raw {database.driver}"
    url = database.fresh()
    with closing(ours(url)) as store:
        store.fill(logs.run_log("run", 1))
    parts = urlsplit(url)
    connecting = CONNECTING[kind_of(url)].format(
        path=parts.path[1:],
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        database=parts.path[1:],
    )
    rounds = Rounds()
    for number in range(-1, 2 * effort.rounds):
        seconds = {}
        for name in (OURS, raw):
            step_log = logs.started(f"{logs.step_name(number + 1)}")
            if name == OURS:
                script = OUR_FIRST_CALL.format(url=url, name=step_log.name)
            else:
                row = logs.step_row(step_log)
                script = RAW_FIRST_CALL.format(connecting=connecting, statement=statements(url)["upsert"], row=row)
            seconds[name] = float(run(sys.executable, "-c", TIMED.format(script=script), folder=folder).split()[-1])
        if number >= 0:  # Before, what Python compiles is not yet there.
            rounds.add(seconds)
    yield rounds.compare("first call of a new process", database, raw, ratio_at_most(1.3))


def pipeline(database: Database, effort: Effort, folder: Path) -> Iterator[Result]:
    """A pipeline of stub steps by magnus' own command."""
    names = [logs.step_name(number) for number in range(effort.pipeline)]
    steps: Dict[str, Any] = {
        name: {"type": "stub", "next": after} for name, after in zip(names, [*names[1:], "success"])
    }
    steps.update(success={"type": "success"}, fail={"type": "fail"})
    stores: Dict[str, Any] = {"buffered": {"type": "buffered"}, OURS: {"type": "db"}}
    if database.name == "sqlite":
        stores["chunked-fs"] = {"type": "chunked-fs"}
    rounds = Rounds()
    for _ in range(effort.rounds):
        seconds = {}
        for name, store in stores.items():
            with tempfile.TemporaryDirectory(dir=str(folder)) as project:
                if name == OURS:
                    store["config"] = {"connection_string": database.fresh()}
                Path(project, "pipeline.yaml").write_text(json.dumps({"dag": {"start_at": names[0], "steps": steps}}))
                Path(project, "config.yaml").write_text(json.dumps({"run_log_store": store}))
                magnus = str(Path(sys.executable).parent / "magnus")
                started = time.perf_counter()
                run(magnus, "execute", "-f", "pipeline.yaml", "-c", "config.yaml", folder=Path(project))
                seconds[name] = time.perf_counter() - started
        rounds.add(seconds)
    for name in stores:
        if name != OURS:
            goal = ratio_at_most(1.05) if name == "buffered" else None
            yield rounds.compare(f"pipeline of {effort.pipeline} stub steps", database, name, goal)


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
