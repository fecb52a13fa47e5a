"""Test `magnus db`: each command on each database, on terminals and in pipes, and with wrong input."""

import codecs
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pickle
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Sequence

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import AnyDatabase, Project, SqliteFile, database_for, new_store
from logs import sample_run, step
from magnus import context
from magnus.datastore import DataCatalog, RunLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore
from rich.console import Console
from servers import free_port

from magnus_peewee_store import DBStore, cli, open_store, runs
from magnus_peewee_store.cli.lists import runs_table
from magnus_peewee_store.configuration import CONNECTION_STRING_VARIABLE
from magnus_peewee_store.exceptions import MissingTableError
from magnus_peewee_store.runs.search import Name
from magnus_peewee_store.runs.summaries import RunSummary

MAGNUS = str(Path(sys.executable).parent / "magnus")
DEADLINE = 60.0

RunCommand = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Return a function that runs a command in this process, in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    for variable in (CONNECTION_STRING_VARIABLE, "MAGNUS_CONFIGURATION_FILE", "MAGNUS_CONFIG_FILE"):
        monkeypatch.delenv(variable, raising=False)

    def invoke(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(cli.db, list(arguments))
        assert result.exit_code == exit_code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def default_store(tmp_path: Path) -> Iterator[DBStore]:
    """Return a store on the default database of the same folder."""
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/.run_log_store/run_log.db")
    yield store
    store.close()


class Terminal:
    """Run a `magnus db` command on a pseudo terminal. A script can take the place of `magnus`."""

    def __init__(
        self, folder: Path, *arguments: str, columns: int = 80, lines: int = 24, script: str = "", **variables: str
    ) -> None:
        self._terminal, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-c", script] if script else [MAGNUS]
        self.process = subprocess.Popen(
            [*command, "db", *arguments],
            cwd=str(folder),
            env={**environment, "TERM": "xterm", "PYTHONWARNINGS": "ignore", **variables},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches the process
        )
        os.close(inner)
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str, seconds: float = DEADLINE) -> None:
        """Read until the output contains the text. Raise `TimeoutError` after some seconds."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{text!r} was not printed:\n{self.output}")
            try:
                read = os.read(self._terminal, 65536)
            except OSError:  # Linux raises EIO when the other side is closed.
                read = b""
            assert read, f"{text!r} was not printed:\n{self.output}"
            self.output += self._decoder.decode(read)  # A character may have been read in two parts.

    def wait(self) -> int:
        """Read the remaining output and return the exit code."""
        with contextlib.suppress(AssertionError):
            self.wait_for("\0")
        os.close(self._terminal)
        return self.process.wait(DEADLINE)

    @property
    def lines(self) -> List[str]:
        """The lines of the output, without escape sequences."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.output).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def run_on_terminal(folder: Path, *arguments: str, columns: int = 80, exit_code: int = 0) -> List[str]:
    terminal = Terminal(folder, *arguments, columns=columns)
    assert terminal.wait() == exit_code, terminal.output
    return terminal.lines


# All commands on each database; on SQLite by the installed `magnus` command, each in a process of its own


@pytest.fixture(params=["sqlite", "postgresql+psycopg", "mysql+pymysql"])
def database_per_server(request: pytest.FixtureRequest, tmp_path: Path, server_databases: Any) -> Iterator[AnyDatabase]:
    yield from database_for(request.param, tmp_path, server_databases)


def test_every_command_works_on_each_database(
    database_per_server: AnyDatabase, project: Project, run: RunCommand
) -> None:
    url = database_per_server.url
    config = {
        "run_log_store": {"type": "db", "config": {"connection_string": "${runs}"}},
        "secrets": {"type": "dotenv"},
    }
    project.write(config_yaml=config)
    (project.folder / ".env").write_text(f"runs={url}\nlaptop=sqlite:///laptop.db\n")

    def magnus(*arguments: str, fails: bool = False) -> str:
        arguments = (*arguments, "-c", "config.yaml")
        if isinstance(database_per_server, SqliteFile):
            output = project.magnus("db", *arguments, fails=fails)
        else:
            output = run(*arguments, exit_code=int(fails)).output
        assert "password" not in output and "Traceback" not in output
        return output

    assert "Created the table db_log." in magnus("create-tables")
    assert "Nothing is missing." in magnus("create-tables")
    store = DBStore(connection_string=url)
    for run_id, status in (("calm-hoover", "SUCCESS"), ("keen-curie", "FAIL")):
        store.put_run_log(sample_run(run_id, status, tag="nightly"))

    assert "All is well." in magnus("check")
    output = magnus("runs", "--status", "FAIL", "--tag", "nightly", "--since", "1h", "--json")
    listed = json.loads(output[output.index("[\n") : output.index("\n]\n") + 2])
    assert [run["failed_step"] for run in listed] == ["each.feb.csv.work"]
    assert "it broke" in magnus("show", "keen")
    assert "keen-curie FAIL" in magnus("show", "keen", "--follow", fails=True)
    magnus("timeline", "keen", "-o", "run.html")
    assert "keen-curie" in (project.folder / "run.html").read_text()
    assert "SUCCESS 1s \u2192 FAIL 1s" in magnus("diff", "calm", "keen")
    assert "2 copied." in magnus("copy", "--to", "${laptop}")
    assert "0 copied, 2 existed already." in magnus("copy", "--to", "${laptop}")
    assert "2 exported." in magnus("export", "--all", "-o", "out")
    assert "1 of 1 run deleted." in magnus("delete", "keen-curie", "--yes")
    assert "1 imported, 1 existed already." in magnus("import", "out")
    assert "1 of 1 run deleted." in magnus("prune", "--keep", "1", "--yes")
    [left] = store.table.runs(["RunLog"])
    assert left[0] in ("calm-hoover", "keen-curie")
    store.close()


# Which database a command uses


ORDER = ["option", "file", "variable", "sdk", "inherited", "project", "parent"]


@pytest.fixture
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git work tree with a database for each place that names one. The subfolder `sub` is the working folder.

    Only the parent folder's file is in place.
    """
    sub = tmp_path / "sub"
    sub.mkdir()
    (tmp_path / ".git").mkdir()
    for name in ORDER:
        folder = tmp_path if name == "parent" else sub
        section = {"run_log_store": {"type": "db", "config": {"connection_string": f"sqlite:///{name}.db"}}}
        (folder / f"{name}.yaml").write_text(json.dumps(section))
        with new_store(f"sqlite:///{folder}/{name}.db") as store:
            store.create_run_log(f"of-{name}")
    in_parent = {"defaults": json.loads((tmp_path / "parent.yaml").read_text())}
    (tmp_path / "magnus-config.yaml").write_text(json.dumps(in_parent))
    monkeypatch.chdir(sub)
    return tmp_path


def test_database_is_found_in_the_documented_order(
    run: RunCommand, databases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*options: str) -> str:
        with contextlib.closing(open_store(*(["file.yaml"] if options else []))) as store:
            [of_python] = runs.search(store)
        [of_command] = json.loads(run("runs", "--json", *options).stdout)
        assert of_python.run_id == of_command["run_id"]
        return of_python.run_id[len("of-") :]

    order = [found()]
    project = {"defaults": json.loads(Path("project.yaml").read_text())}
    Path("magnus-config.yaml").write_text(json.dumps(project))
    order.append(found())
    monkeypatch.setenv("MAGNUS_CONFIG_FILE", "inherited.yaml")
    order.append(found())
    monkeypatch.setenv("MAGNUS_CONFIGURATION_FILE", "sdk.yaml")
    order.append(found())
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "sqlite:///variable.db")
    order.append(found())
    order.append(found("-c", "file.yaml"))
    [run_log] = json.loads(run("runs", "--json", "--connection-string", "sqlite:///option.db").stdout)
    assert [*order, run_log["run_id"][3:]] == ORDER[::-1]
    assert "Give one" in run("runs", "-c", "file.yaml", "--connection-string", "x", exit_code=2).output


def test_which_names_what_decided(run: RunCommand, databases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decisive() -> str:
        lines = run("which").output.splitlines()
        assert [line.split(":")[0][3:].split(" ")[0] for line in lines[:-1]] == [
            "--connection-string",
            "-c",
            "MAGNUS_DB_CONNECTION_STRING",
            "MAGNUS_CONFIGURATION_FILE",
            "MAGNUS_CONFIG_FILE",
            "magnus-config.yaml",
            "magnus-config.yaml",
            "the",
        ]
        [line] = [line for line in lines if line.startswith("->")]
        return line

    assert decisive().endswith(f"git work tree: {databases}/magnus-config.yaml")
    assert f"The database is {databases}/parent.db ({databases}/magnus-config.yaml)." in run("which").output
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "postgresql://ann:krakenbait@nowhere/x")
    assert decisive() == "-> MAGNUS_DB_CONNECTION_STRING: postgresql://ann:***@nowhere/x"
    assert "krakenbait" not in run("which").output


def default_decides(run: RunCommand) -> bool:
    return "-> the default" in run("which").output


def test_parent_folders_count_in_a_git_work_tree_only(run: RunCommand, databases: Path) -> None:
    (databases / ".git").rename(databases.parent / ".git")
    assert not default_decides(run)
    (databases.parent / ".git").rename(databases / "sub" / ".git")  # the root of a work tree ends the search
    assert default_decides(run)
    (databases / "sub" / ".git").rmdir()
    assert default_decides(run)


def test_file_of_another_user_in_a_parent_folder_is_ignored(
    run: RunCommand, databases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert default_decides(run)
    Path("magnus-config.yaml").write_text((databases / "magnus-config.yaml").read_text())
    assert not default_decides(run)  # magnus itself trusts the one in the working folder


def test_nearest_file_decides_even_if_it_names_no_store(run: RunCommand, databases: Path) -> None:
    Path("magnus-config.yaml").write_text("defaults: {executor: {type: local}}")
    output = run("which").output
    assert f"The database is {databases}/sub/.run_log_store/run_log.db (the default, since magnus-config.yaml" in output


def test_sections_that_a_file_lacks_come_from_the_project(run: RunCommand, databases: Path) -> None:
    Path("empty.yaml").write_text("")
    assert "does not keep run logs" in run("runs", "-c", "empty.yaml", exit_code=1).output  # as magnus in this folder
    Path("magnus-config.yaml").write_text(json.dumps({"defaults": json.loads(Path("project.yaml").read_text())}))
    assert "of-project" in run("runs", "-c", "empty.yaml").output


def test_section_outside_of_defaults_is_explained(run: RunCommand, databases: Path) -> None:
    Path("magnus-config.yaml").write_text(Path("project.yaml").read_text())
    assert "Move 'run_log_store:' into it" in run("runs", exit_code=1).output
    assert "of-project" in run("runs", "-c", "magnus-config.yaml").output  # as magnus


def test_relative_paths_of_a_parent_folder_start_there(run: RunCommand, databases: Path) -> None:
    config = {
        "secrets": {"type": "dotenv"},
        "run_log_store": {"type": "db", "config": {"connection_string": "sqlite:///${name}.db"}},
    }
    (databases / "magnus-config.yaml").write_text(json.dumps({"defaults": config}))
    (databases / ".env").write_text("name=parent")
    assert "of-parent" in run("runs").output
    with contextlib.closing(open_store()) as store, contextlib.closing(pickle.loads(pickle.dumps(store))) as copy:
        assert copy.find_file() == f"{databases}/${{name}}.db"


def test_deleting_commands_name_the_database_before_they_ask(run: RunCommand, databases: Path) -> None:
    named = f"The database is {databases}/parent.db ({databases}/magnus-config.yaml)."
    output = run("delete", "of-parent", exit_code=1).output
    assert output.index(named) < output.index("Nothing was deleted")
    given = run("delete", "of-file", "-c", "file.yaml", "--dry-run").output
    assert "would be deleted" in given and "The database is" not in given
    assert named in run("mark-failed", "of-parent").output
    assert named in run("prune", "--keep", "0", "--dry-run").output


def test_missing_file_names_c_and_what_was_looked_for(run: RunCommand, tmp_path: Path) -> None:
    output = run("runs", exit_code=1).output
    assert f"There is no SQLite file {tmp_path}/.run_log_store/run_log.db" in output
    assert f"since there is no {tmp_path}/magnus-config.yaml" in output
    assert "with -c" in output and "create-tables" not in output
    with pytest.raises(MissingTableError, match="config_file"):
        open_store()


def test_secrets_handler_resolves_placeholders(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "magnus-config.yaml").write_text("defaults:\n  secrets:\n    type: env-secrets-manager\n")
    monkeypatch.setenv("NAME", "secret")
    before = SimpleNamespace(secrets_handler=None, run_id="")  # A heartbeat of an earlier test may read it.
    monkeypatch.setattr(context, "run_context", before)
    assert "Created" in run("create-tables", "--connection-string", "sqlite:///${NAME}.db").output
    assert (tmp_path / "secret.db").exists()
    assert context.run_context is before
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "sqlite:///${NAME}.db")
    assert "Nothing" in run("create-tables").output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("run_log_store: {type: chunked-fs}", "does not keep run logs in a database. Add to it: run_log_store"),
        ("run_log_store: db", "does not keep run logs in a database"),
        ("executor: {type: local}", "does not keep run logs in a database"),
        ("- a list", "is not a configuration of magnus"),
        ("a: b: krakenbait", "is not valid YAML: see line 1"),
        ("\x00", "is not valid YAML"),
        (
            "run_log_store: {type: db, config: krakenbait}",
            "the section 'config:' must contain lines of the form key: value",
        ),
        ("run_log_store: {type: db, config: {krakenbait: 1}}", "is not valid: 'krakenbait'"),
        ("run_log_store: {type: db, config: {connection_string: [krakenbait]}}", "is not valid: 'connection_string'"),
        (
            "run_log_store: {type: db, connection_string: 'sqlite:///krakenbait.db'}",
            "has 'connection_string' beside 'type:', where magnus ignores it. Write it under 'config:'",
        ),
        ("run_log_store: {type: db, heartbeat: 5}", "has 'heartbeat' beside 'type:'"),
        (
            "run_log_store: {type: db}\nsecrets: {type: none, config: {token: krakenbait}}",
            "secrets handler 'none' cannot",
        ),
        ("run_log_store: {type: db}\nsecrets: krakenbait", "secrets handler None cannot"),
        (
            "run_log_store: {type: db, config: {connection_string: '${x}'}}\nsecrets: {type: dotenv}",
            "secrets handler failed: Did not find the secrets file in .env",
        ),
    ],
)
def test_invalid_configuration_is_explained(run: RunCommand, tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    output = run("runs", "-c", "config.yaml", exit_code=1).output
    assert message in output and "Traceback" not in output
    assert "krakenbait" not in output.replace("'krakenbait': Extra inputs", "")


PASSWORDS = ["krakenbait", "p@krakenbait:x", "a/krakenbait#?", "krakenbait%41", "{krakenbait}"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "url_template", ["postgresql://u:{}@127.0.0.1:1/runs", "mysql://u:{}@127.0.0.1:1", "nothing://u:{}@h/d", "{}"]
)
def test_errors_contain_no_password(run: RunCommand, tmp_path: Path, url_template: str, password: str) -> None:
    url = url_template.format(password)
    config = {"run_log_store": {"type": "db", "config": {"connection_string": url, "retry_timeout": 0}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    DBStore(connection_string=f"sqlite:///{tmp_path}/here.db").create_run_log("run")
    for command in (
        ["runs", "-c", "config.yaml"],
        ["check", "-c", "config.yaml"],
        ["import", ".", "-c", "config.yaml"],
    ):
        output = run(*command, exit_code=1).output
        assert output.startswith("Error: ") and "krakenbait" not in output, output


@pytest.mark.parametrize(
    ("options", "configured", "waited"),
    [([], 3600, "5 s"), ([], 0.5, "0.5 s"), (["--retry-timeout", "0.3"], 3600, "0.3 s")],
)
def test_commands_wait_a_few_seconds_for_the_database(
    run: RunCommand, tmp_path: Path, options: List[str], configured: float, waited: str
) -> None:
    url = f"postgresql://scott:tiger@127.0.0.1:{free_port()}/runs"
    config = {"run_log_store": {"type": "db", "config": {"connection_string": url, "retry_timeout": configured}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    output = run("runs", "-c", "config.yaml", *options, exit_code=1).output
    assert f"gave up after retry_timeout, {waited}" in " ".join(output.split())


# Protection against mistakes


READING_COMMANDS = ["runs", "check", "show x", "diff a b", "timeline x -o x.svg", "export --all -o out"]
WRITING_COMMANDS = ["copy --to sqlite:///other.db", "delete x --yes", "prune --keep 1 --yes"]


@pytest.mark.parametrize("command", [*READING_COMMANDS, *WRITING_COMMANDS])
def test_commands_create_no_database(run: RunCommand, tmp_path: Path, command: str) -> None:
    output = run(*command.split(), exit_code=1).output
    assert f"There is no SQLite file {tmp_path}/.run_log_store/run_log.db" in output
    assert "the default, since there is no " in output
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    output = run(*command.split(), "--connection-string", "sqlite:///empty.db", exit_code=1).output
    assert "There is no table db_log" in output and "sqlite:///empty.db" in output and "(--connection-string)" in output
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


def test_file_that_is_not_a_database_is_explained(run: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to be looked at" * 10)
    output = run("runs", "--connection-string", "sqlite:///notes.db", exit_code=1).output
    assert output.startswith("Error: ") and "not a database" in output and "sqlite:///notes.db" in output


def test_copy_to_the_same_database_fails(run: RunCommand, default_store: DBStore, tmp_path: Path) -> None:
    default_store.create_run_log("run")
    output = run("copy", "--to", f"sqlite:///{tmp_path}/./.run_log_store/run_log.db", exit_code=1).output
    assert "The database to copy to is the one that contains the runs" in output


def test_delete_requires_confirmation(run: RunCommand, default_store: DBStore, tmp_path: Path) -> None:
    default_store.create_run_log("calm-hoover", status="PROCESSING")
    for command in (["delete", "calm-hoover"], ["prune", "--keep", "0"]):
        if command[0] == "delete":
            assert "there is no terminal for the confirmation. Add --yes" in run(*command, exit_code=1).output
        assert "deleted" not in run(*command, "--dry-run").output.replace("would be deleted", "").replace(
            "to delete", ""
        )
    terminal = Terminal(tmp_path, "delete", "calm-hoover")
    terminal.wait_for("Delete 1 run? [y/N]: ")
    assert "These runs have not ended and may still be running: calm-hoover" in terminal.output
    terminal.type("n\n")
    assert terminal.wait() == 1
    assert default_store.table.runs(["RunLog"])
    terminal = Terminal(tmp_path, "delete", "calm-hoover")
    terminal.wait_for("[y/N]: ")
    terminal.type("y\n")
    assert terminal.wait() == 0 and "1 of 1 run deleted." in terminal.output
    assert not default_store.table.runs(["RunLog"])


def test_prune_lists_deleted_and_skipped_runs(run: RunCommand, default_store: DBStore) -> None:
    for number in range(15):
        default_store.create_run_log(f"run-{number:02}", status="SUCCESS" if number else "PROCESSING")
    output = run("prune", "--keep", "2", "--dry-run").output
    assert "1 run kept, because they may still be running: run-00" in output
    assert "run-10" in output and "run-11" not in output
    assert re.search(r"\.\.\. and 2 more: 12 runs in total, started from .* to .*\.", output)
    assert "12 runs would be deleted." in output
    assert "Give --older-than AGE" in run("prune", exit_code=2).output
    run("prune", "--older-than", "1d", "--yes")
    assert len(default_store.table.runs(["RunLog"])) == 15
    assert "12 of 12 runs deleted." in run("prune", "--keep", "2", "--yes").output
    assert [run_id for run_id, _ in default_store.table.runs(["RunLog"])] == ["run-14", "run-13", "run-00"]


# Output


def expected_json(log: Any) -> str:
    """Return the beginning of what `--json` prints for a log. NaN is a text."""
    return json.dumps(log.model_dump(), indent=4)[:-2].replace("NaN", '"NaN"')


def test_show_json_contains_the_model_dump(run: RunCommand, default_store: DBStore) -> None:
    default_store.put_run_log(sample_run("run"))
    run_log = default_store.get_run_log_by_id("run", full=True)
    assert run("show", "run", "--json").stdout.startswith(expected_json(run_log))
    chosen = run_log.steps["each"].branches["each.jan.csv"].steps["each.jan.csv.work"]
    shown = run("show", "run", "--step", "each.jan.csv.work", "--json").stdout
    assert shown.startswith(expected_json(chosen))


def test_json_times_have_a_time_zone(run: RunCommand, default_store: DBStore) -> None:
    default_store.create_run_log("run")
    [listed] = json.loads(run("runs", "--json").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", listed["started"])


def test_show_step_by_unique_name(run: RunCommand, default_store: DBStore) -> None:
    default_store.put_run_log(sample_run("run", "FAIL"))
    output = run("show", "run", "--step", "load").output
    assert "sha256 0123456789abcdef" in output and "2024-02-03 10:00:04.500000" in output and "git 5f0f5e2" in output
    assert "it broke\n" in run("show", "run", "--step", "each.feb.csv.work").output
    output = run("show", "run", "--step", "work", exit_code=1).output
    assert "More than one step of run 'run' is named 'work': each.jan.csv.work, each.feb.csv.work" in output
    assert "has no step 'laod'. Did you mean load?" in run("show", "run", "--step", "laod", exit_code=1).output


def test_unreadable_rows_are_reported(run: RunCommand, default_store: DBStore, tmp_path: Path) -> None:
    default_store.put_run_log(sample_run("run"))
    default_store.table.upsert("run", [("Step", "load", "{")])
    for command in (
        ["show", "run"],
        ["show", "run", "--json"],
        ["diff", "run", "run"],
        ["timeline", "run", "-o", "x.svg"],
    ):
        assert "Cannot read Step load of run: it is not JSON" in run(*command).output
    assert "each" in run("show", "run").output
    output = run("runs").output
    assert "3/4" in output and "Cannot read Step load of run" in output
    assert "run: Step load: it is not JSON" in run("check", exit_code=1).output
    assert run("export", "run", "-o", "out", exit_code=1).output.count("\n") == 2


def test_unknown_run_id_suggests_similar_ids(run: RunCommand, default_store: DBStore) -> None:
    for run_id in ("calm-hoover", "calm-curie"):
        default_store.create_run_log(run_id)
    assert (
        run("show", "calm-hover", exit_code=1).output
        == "Error: There is no run 'calm-hover'. Did you mean calm-hoover or calm-curie?\n"
    )
    assert "More than one run begins with 'calm': calm-curie, calm-hoover" in run("show", "calm", exit_code=1).output
    assert "Give the whole id" in run("delete", "calm", "--yes", exit_code=1).output
    assert len(default_store.table.runs(["RunLog"])) == 2


def test_no_value_of_a_row_controls_the_terminal(run: RunCommand, default_store: DBStore, tmp_path: Path) -> None:
    evil = "\x1b[2J\x9b31m"
    for run_id, value in (("first", evil), ("second", evil + "x")):
        default_store.create_run_log(run_id, tag=evil)
        data = DataCatalog(name=evil, stage=evil, data_hash=value, catalog_relative_path=evil)
        log = step("load", status="FAIL", message=evil, data_catalog=[data], user_defined_metrics={"text": value})
        default_store.add_step_log(log, run_id)
        default_store.set_parameters(run_id, {"text": value, "list": [value]})
    for command in ("runs --params --metrics", "show first", "show first --step load", "diff first second", "check"):
        assert not set("\x1b\x9b") & set(run(*command.split()).output), command
    csv = Terminal(tmp_path, "runs", "--csv")
    assert csv.wait() == 0 and not set("\x1b\x9b") & set(csv.output)


def test_markup_and_control_characters_are_escaped(run: RunCommand, default_store: DBStore) -> None:
    name = "[red]x[/red] :smile: \x1b[31m\x07\u202e\n\x9b1m"
    default_store.create_run_log(name, tag=name, status="PROCESSING")
    default_store.set_parameters(name, {name: name})
    default_store.add_step_log(step("a", status="FAIL", attempts=[{"message": f"{name}\r\n{name}"}]), name)
    escaped = r"[red]x[/red] :smile: \x1b[31m\x07\u202e\n\x9b1m"
    for command in (["runs"], ["show", name], ["delete", name, "--dry-run"], ["show", "[red]", "--step", "b"]):
        result = CliRunner().invoke(cli.db, command)
        assert not set("\x1b\x07\x9b\u202e\r") & set(result.output), result.output
        assert escaped in result.output or "has no step" in result.output
    for command in (["show", name + "b"], ["show", name, "--step", "a"], ["check"]):
        assert not set("\x1b\x07\x9b\u202e\r") & set(CliRunner().invoke(cli.db, command).output)


@pytest.mark.parametrize("command", ["show a", "diff a b", "diff a b c"])
def test_terminal_shows_the_first_thousand_values(
    command: str, run: RunCommand, default_store: DBStore, tmp_path: Path
) -> None:
    for run_id in "abc":
        metrics = {f"m{number}": f"{number} {run_id}" for number in range(1003)}
        default_store.put_run_log(RunLog(run_id=run_id, steps={"fit": step("fit", user_defined_metrics=metrics)}))
    output = "\n".join(run_on_terminal(tmp_path, *command.split()))
    assert "999 a" in output and "1000 a" not in output and "... and 3 more" in output
    output = run(*command.split()).output
    assert "1002 a" in output and "more" not in output


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(default_store: DBStore, tmp_path: Path, columns: int) -> None:
    long = "nightly-2024-02-03-of-the-team-that-likes-long-names-" + "0123456789" * 3
    for run_id, tag in (("calm-hoover-0900", ""), ("independent-visvesvaraya-1117", "nightly"), (long, "t" * 30)):
        default_store.put_run_log(sample_run(run_id, "FAIL", tag=tag, parameters={"many": list(range(200))}))
    others = [["show", "calm"], ["show", "calm", "--step", "load"], ["diff", "calm", "ind"], ["check"]]
    for command in [["runs"], *(others if columns == 80 else [])]:
        lines = run_on_terminal(tmp_path, *command, columns=columns)
        assert max(map(len, lines)) <= columns
        if command == ["runs"]:
            assert any(line.startswith("independent-visvesvaraya-1117 ") for line in lines)
            assert ("FAILED STEP" in lines[0]) == (columns == 200)
            assert len([line for line in lines if line.strip()]) == 4  # one a run
            assert sum("each.feb.csv.work" in line for line in lines) == (3 if columns == 200 else 0)
            assert any(long in line for line in lines) == (columns == 200)
        if command == ["show", "calm"]:
            assert any("characters)" in line for line in lines)


def draw_list(*found: RunSummary, names: Sequence[str] = (), width: int = 80, **options: Any) -> List[str]:
    """Return the lines of a list."""
    console = Console(width=width, file=io.StringIO(), **options)
    with console.capture() as capture:
        console.print(runs_table(found, console.width, [*map(Name, names)])[0])
    return [line.rstrip() for line in capture.get().splitlines()]


def listed_run(run_id: str, status: str, **fields: Any) -> RunSummary:
    """Return a run that started at a time which is the same day in every time zone."""
    unknown = {field.name: None for field in dataclasses.fields(RunSummary)}
    started = datetime(2024, 1, 31, 11, tzinfo=timezone.utc)
    other = {
        "started": started,
        "steps_done": 0,
        "steps_known": 0,
        "unreadable": [],
        "tags": (),
        "notes": (),
        "params": {},
        "metrics": {},
        "series": {},
    }
    return RunSummary(**{**unknown, **other, "run_id": run_id, "status": status, **fields})


def test_list_cuts_long_cells_and_aligns_columns() -> None:
    long = {"tag": "weekly", "duration": 9.5, "steps_known": 10, "failed_step": "a-step-with-a-long-name"}
    wide = "走る"  # Each of these characters is two columns wide.
    lines = draw_list(
        listed_run(f"run-{'x' * 40}", "FAIL", **long),
        listed_run(wide, "SUCCESS", duration=125.0, steps_done=1000, steps_known=1000),
        color_system=None,
    )
    assert lines == [
        "RUN                     STATUS   STARTED         TOOK      STEPS  TAG     FAILED",
        "run-xxxxxxxxxxxxxxxxx…  FAIL     Jan 31  2024    9.5s       0/10  weekly  …-name",
        "走る                    SUCCESS  Jan 31  2024  2m 05s  1000/1000",
    ]


@pytest.mark.parametrize(("width", "ending"), [(80, "….work"), (110, "….work"), (200, "each.feb.csv.work")])
def test_no_fixed_heading_is_cut(width: int, ending: str) -> None:
    busy = {"tag": "t" * 30, "duration": 43000.0, "steps_known": 1000, "steps_done": 1000}
    found = [
        listed_run("x" * 83, "FAIL", failed_step="each.feb.csv.work", **busy),
        listed_run("imported", "PROCESSING"),
        listed_run("dead", "PROCESSING", is_stale=True, is_interrupted=True, silence=700.0),
    ]
    heading, failed, *_ = draw_list(*found, width=width, color_system=None)
    assert heading.split()[:7] == ["RUN", "STATUS", "STARTED", "TOOK", "STEPS", "TAG", "FAILED"]
    assert failed.endswith(f" {ending}")
    names = [f"metrics.each.{month}.csv.work.loss" for month in ("september", "february")]
    heading = draw_list(*found, names=names, width=140, color_system=None)[0]
    assert heading.endswith("…september.csv.work.loss  ….february.csv.work.loss")


def test_list_names_a_failed_step_where_there_is_room() -> None:
    heading, failed = draw_list(listed_run("bad", "FAIL", failed_step="each.feb.csv.work"), color_system=None)
    assert heading.endswith(" FAILED STEP") and failed.endswith(" each.feb.csv.work")


def test_list_is_coloured() -> None:
    found = [
        listed_run("good", "SUCCESS"),
        listed_run("bad", "FAIL", failed_step="train"),
        listed_run("lost", "PROCESSING"),
        listed_run("stale", "PROCESSING", is_stale=True, silence=90.0),
    ]
    heading, good, bad, lost, stale = draw_list(*found, color_system="standard", force_terminal=True)
    assert heading.startswith("\x1b[1mRUN")
    assert "\x1b[32mSUCCESS" in good
    assert "\x1b[1;31mFAIL" in bad and "\x1b[31mtrain" in bad
    assert "\x1b[36mPROCESSING" in lost
    assert "\x1b[1;31mSTALE" in stale


def test_piped_output_is_not_truncated(default_store: DBStore, run: RunCommand) -> None:
    long, value = "run-" + "x" * 500, list(range(2000))
    default_store.put_run_log(sample_run(long, "FAIL", tag="t" * 300, parameters={"many": value}))
    assert long in run("runs").output and "t" * 300 in run("runs").output
    assert json.dumps(value) in run("show", "run-").output


def test_stdout_with_json_has_no_log_messages(project: Project) -> None:
    store = DBStore(connection_string=f"sqlite:///{project.folder}/${{x}}.db")
    store.create_run_log("run")
    store.close()
    process = subprocess.run(
        [MAGNUS, "db", "runs", "--json", "--connection-string", "sqlite:///${x}.db"],
        cwd=str(project.folder),
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert "no secret is named x" in process.stderr
    assert [run["run_id"] for run in json.loads(process.stdout)] == ["run"]


def test_closed_pipe_is_not_an_error(default_store: DBStore, project: Project) -> None:
    for number in range(300):
        default_store.create_run_log(f"run-{number}", tag="x" * 500)
    for command in ("runs --limit 300", "runs --limit 300 --json"):
        process = subprocess.run(
            ["bash", "-c", f"set -o pipefail; '{MAGNUS}' db {command} | head -1"],
            cwd=str(project.folder),
            # Unbuffered output would not fail at the closed pipe.
            env={**project.environment, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0 and not process.stderr and process.stdout.count("\n") == 1


def test_every_command_has_help_with_an_example(run: RunCommand) -> None:
    for name in cli.COMMANDS:
        assert f"Example:\n    magnus db {name}" in run(name, "--help").output
        command = cli.db.get_command(click.Context(cli.db), name)
        assert command and command.name == name and command.get_short_help_str(200).endswith((".", ":"))


def test_magnus_imports_no_command_that_it_does_not_run(project: Project) -> None:
    code = """
        import sys
        import magnus.cli
        print([name for name in sys.modules if name.startswith(("magnus_peewee_store.cli.", "magnus_peewee_store.r"))])
    """
    assert project.python("-W", "ignore", "-c", textwrap.dedent(code)).strip() == "[]"


# show --follow


def test_follow_shows_the_run_until_it_ends(default_store: DBStore, project: Project, tmp_path: Path) -> None:
    default_store.create_run_log("calm-hoover", status="PROCESSING")
    default_store.add_step_log(step("first", status="PROCESSING"), "calm-hoover")
    piped = project.start("magnus", "db", "show", "calm", "--follow")
    terminal = Terminal(tmp_path, "show", "calm", "--follow", lines=8)
    printed = ""
    try:
        for line in iter(piped.stdout.readline, ""):  # type: ignore[union-attr]
            printed += line
            if "first PROCESSING" in line:
                terminal.wait_for("first")
                default_store.add_step_log(step("first", status="SUCCESS"), "calm-hoover")
                for number in range(20):  # more than the terminal has lines
                    default_store.add_step_log(step(f"more-{number}", status="SUCCESS"), "calm-hoover")
                default_store.add_step_log(step("second", status="PROCESSING"), "calm-hoover")
            if "second PROCESSING" in line:
                terminal.wait_for("second")
                default_store.update_run_log_status("calm-hoover", "FAIL")
        assert re.search(
            r"first PROCESSING[^$]*first SUCCESS[^$]*second PROCESSING[^$]*calm-hoover FAIL\n$", printed
        ), printed
        assert printed.count("first SUCCESS") == 1
    finally:
        default_store.update_run_log_status("calm-hoover", "FAIL")  # ends both commands if the test failed
    piped.communicate()
    assert (piped.returncode, terminal.wait()) == (1, 1)
    assert any("more-0" in line for line in terminal.lines[-30:]), terminal.output


def test_ctrl_c_stops_follow(default_store: DBStore, tmp_path: Path) -> None:
    default_store.create_run_log("run", status="PROCESSING")
    terminal = Terminal(tmp_path, "show", "run", "--follow")
    terminal.wait_for("PROCESSING")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert "Interrupted." in terminal.output and "Traceback" not in terminal.output


def test_follow_exit_code_depends_on_run_status(default_store: DBStore, run: RunCommand) -> None:
    for status, code in (("SUCCESS", 0), ("FAIL", 1)):
        default_store.create_run_log(status, status=status)
        run("show", status, "--follow", exit_code=code)
    assert "Leave out the other options" in run("show", "SUCCESS", "--follow", "--json", exit_code=2).output


# Interrupted and concurrent commands


def write_run_files(folder: Path, count: int = 300) -> None:
    folder.mkdir()
    text = json.dumps(sample_run("RUN").model_dump())
    for number in range(count):
        (folder / f"run-{number:03}.json").write_text(text.replace('"RUN"', f'"run-{number:03}"'))


# Presses Ctrl-C in the middle of a run: after a statement of its transaction, or before its file gets its name.
INTERRUPT = """
import itertools, os, signal
import peewee
from magnus.cli import cli

numbers = itertools.count(1)

def interrupt_after_150(write, counts):
    def write_and_interrupt(*arguments, **options):
        result = write(*arguments, **options)
        if counts(*arguments) and next(numbers) == 150:
            signal.raise_signal(signal.SIGINT)
        return result
    return write_and_interrupt

def is_write(database, sql, *rest):
    return sql.startswith(("INSERT", "DELETE"))

peewee.Database.execute_sql = interrupt_after_150(peewee.Database.execute_sql, is_write)
os.fsync = interrupt_after_150(os.fsync, lambda descriptor: True)
cli()
"""


@pytest.mark.parametrize("command", ["import", "copy", "export", "prune"])
def test_interrupted_command_can_be_repeated(
    command: str, default_store: DBStore, run: RunCommand, tmp_path: Path
) -> None:
    write_run_files(tmp_path / "in")
    if command != "import":
        run("import", "in")
    other = f"sqlite:///{tmp_path}/other.db"
    commands: Dict[str, List[str]] = {
        "import": ["import", "in"],
        "copy": ["copy", "--to", other],
        "export": ["export", "--all", "-o", "out"],
        "prune": ["prune", "--keep", "0", "--yes"],
    }

    def count_rows() -> Dict[str, int]:
        """Return the number of rows of each run that is copied already or, for `prune`, not yet deleted."""
        if command == "export":
            read = FileSystemRunLogstore(log_folder=str(tmp_path / "out")).get_run_log_by_id
            return {path.stem: 11 for path in (tmp_path / "out").glob("*.json") if read(path.stem)}
        store = DBStore(connection_string=other) if command == "copy" else default_store
        counts: Dict[str, int] = {}
        for rows in store.table.scan(1000):
            for row in rows:
                counts[row.run_id] = counts.get(row.run_id, 0) + 1
        return counts

    terminal = Terminal(tmp_path, *commands[command], script=INTERRUPT)
    assert terminal.wait() == 130, terminal.output
    partial = count_rows()
    assert 0 < len(partial) < 300 and set(partial.values()) == {11}
    assert not list(tmp_path.rglob("*.tmp"))
    output = run(*commands[command]).output
    final = count_rows()
    if command == "prune":
        assert f"{len(partial)} of {len(partial)} runs deleted." in output and not final
    else:
        assert len(final) == 300 and set(final.values()) == {11}
        assert (
            command == "export" or f"{300 - len(partial)} {'imported' if command == 'import' else 'copied'}" in output
        )


def test_prune_does_not_block_pipelines(default_store: DBStore, project: Project, run: RunCommand) -> None:
    write_run_files(project.folder / "in")
    run("import", "in")
    end = {"success": {"type": "success"}, "fail": {"type": "fail"}}
    steps: Dict[str, Any] = {"a": {"type": "stub", "next": "b"}, "b": {"type": "stub", "next": "success"}, **end}
    project.write(
        pipeline_yaml={"dag": {"start_at": "a", "steps": steps}}, config_yaml={"run_log_store": {"type": "db"}}
    )
    prune = project.start("magnus", "db", "prune", "--older-than", "90d", "--yes")
    pipeline = [project.start("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "--run-id", "now")]
    for process in [*pipeline, prune]:
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, output
    assert "300 of 300 runs deleted." in output
    assert [run_id for run_id, _ in default_store.table.runs(["RunLog"])] == ["now"]
    assert default_store.get_run_log_by_id("now", full=True).steps.keys() == {"a", "b", "success"}


def test_delete_requires_the_full_run_id(run: RunCommand, default_store: DBStore) -> None:
    for run_id in ("run-1", "run-10", "last"):
        default_store.create_run_log(run_id)
    assert "1 of 1 run deleted" in run("delete", "run-1", "--yes").output
    again = run("delete", "run-1", "last", "--yes", exit_code=1).output
    assert "There is no run 'run-1'" in again and "1 of 1 run deleted" in again
    assert [run_id for run_id, _ in default_store.table.runs(["RunLog"])] == ["run-10"]


def test_interrupted_confirmation_deletes_nothing(default_store: DBStore, tmp_path: Path) -> None:
    default_store.put_run_log(RunLog(run_id="run", status="SUCCESS"))
    terminal = Terminal(tmp_path, "prune", "--keep", "0")
    terminal.wait_for("[y/N]: ")
    while "Aborted!" not in terminal.output:
        terminal.type("\x03")  # Repeated: Python ignores Ctrl-C just before it starts to read.
        with contextlib.suppress(TimeoutError):
            terminal.wait_for("Aborted!", seconds=0.5)
    assert terminal.wait() == 1 and "Traceback" not in terminal.output
    assert default_store.table.runs(["RunLog"])


def test_shell_completes_run_ids(run: RunCommand, default_store: DBStore, tmp_path: Path) -> None:
    def complete(*words: str) -> List[str]:
        found = ShellComplete(cli.db, {}, "magnus-db", "").get_completions([*words[:-1]], words[-1])
        return [each.value for each in found]

    assert complete("show", "") == [] and not (tmp_path / ".run_log_store" / "run_log.db").exists()
    for run_id in ("calm-hoover", "calm-curie", "odd-lamarr"):
        default_store.create_run_log(run_id)
    assert complete("show", "calm") == ["calm-curie", "calm-hoover"]
    assert complete("diff", "calm-hoover", "o") == ["odd-lamarr"]
    assert complete("show", "--connection-string", "sqlite:///missing.db", "calm") == []
    assert complete("sh") == ["show"]
