"""Test the streams of `magnus db`: closed ones, terminals, colours, and encodings other than UTF-8."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest
from conftest import Project
from logs import sample_run
from test_cli import Terminal

from magnus_peewee_store import DBStore

LONG = "value" * 200
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
def with_runs(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with a failed and an unfinished run."""
    project = Project(tmp_path_factory.mktemp("project"))
    store = DBStore(connection_string=f"sqlite:///{project.folder}/.run_log_store/run_log.db")
    failed = sample_run("größe", status="FAIL")
    failed.parameters = {"währung": "€", "long": LONG}
    failed.steps["each"].branches["each.feb.csv"].steps["each.feb.csv.work"].attempts[0].message = "it broke: 3 €"
    store.put_run_log(failed)
    store.put_run_log(sample_run("unfinished", status="PROCESSING"))
    store.close()
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        project.environment.pop(name, None)
    return project


def shell(project: Project, command: str, exit_code: int = 0, encoding: str = "utf-8", **environment: str) -> str:
    """Run a command with redirections, and return its whole output."""
    process = subprocess.run(
        ["/bin/bash", "-c", command.replace("magnus", f"'{Path(sys.executable).parent}/magnus'", 1)],
        cwd=project.folder,
        env={**project.environment, "PYTHONWARNINGS": "ignore", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = process.stdout.decode(encoding)
    assert "Traceback" not in output and process.returncode == exit_code, output
    return output


# Closed streams


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("show unfinished >&-", 0),
        ("runs --csv >&-", 0),
        ("check 2>&-", 0),
        ("delete unfinished <&-", 1),
        ("export --all -o exported >&- 2>&- <&-", 0),
    ],
)
def test_closed_stream_ends_no_command(with_runs: Project, command: str, exit_code: int) -> None:
    shell(with_runs, f"magnus db {command}", exit_code)


def test_copy_without_stderr_copies(with_runs: Project, tmp_path: Path) -> None:
    """The unfinished run is reported on stderr."""
    assert "it has not ended" in shell(with_runs, f"magnus db copy --to sqlite:///{tmp_path}/open.db")
    assert "2 copied." in shell(with_runs, f"magnus db copy --to sqlite:///{tmp_path}/closed.db 2>&-")
    reader, writer = os.pipe()
    os.close(reader)
    copying = with_runs.start("magnus", "db", "copy", "--to", f"sqlite:///{tmp_path}/broken.db", stderr=writer)
    os.close(writer)
    assert "2 copied." in copying.communicate()[0] and copying.returncode == 0


# Terminals and colours


def test_force_color_draws_nothing_in_a_file(with_runs: Project) -> None:
    shown = shell(with_runs, "magnus db show größe", FORCE_COLOR="1")
    assert LONG in shown and "\x1b[1;31mFAIL" in shown
    followed = shell(with_runs, "magnus db show größe --follow", 1, FORCE_COLOR="1")
    assert "each.feb.csv.work FAIL" in followed and "├" not in followed and "\x1b" not in followed


def test_dumb_terminal_gets_a_line_for_each_change(with_runs: Project) -> None:
    terminal = Terminal(with_runs.folder, "show", "größe", "--follow", TERM="dumb")
    assert terminal.wait() == 1
    assert "each.feb.csv.work FAIL" in terminal.output and "\x1b" not in terminal.output


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_logs_are_coloured_only_where_allowed(with_runs: Project, environment: Dict[str, str]) -> None:
    terminal = Terminal(with_runs.folder, "logs", "größe", **environment)
    assert terminal.wait() == 0
    assert ("\x1b[31mit broke" in terminal.output) == (not environment) and "it broke" in terminal.output
    assert not environment or "\x1b" not in terminal.output


# Encodings


@pytest.mark.parametrize("command", ["runs --csv", "logs latest:FAIL", "show latest:FAIL"])
def test_characters_that_the_encoding_lacks_are_escaped(with_runs: Project, command: str) -> None:
    output = shell(with_runs, f"magnus db {command}", encoding="latin-1", PYTHONIOENCODING="latin-1")
    assert r"\u20ac" in output and ("ö" in output or "logs" in command)


def test_export_where_file_names_are_ascii(with_runs: Project, tmp_path: Path) -> None:
    assert "2 exported." in shell(with_runs, f"magnus db export --all -o {tmp_path}", **ASCII)
    assert (tmp_path / "größe.json").exists()
