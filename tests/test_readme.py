"""Test the examples in README.md. Its other shell commands are run by .ci/run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import List

import pytest
import readme
from conftest import Project, new_server
from magnus.datastore import StepLog

from magnus_peewee_store import DBStore, create_tables


def statements(name: str) -> List[str]:
    """Return the SQL statements in a code block of README.md."""
    return [statement for statement in readme.block(name).split(";") if statement.strip()]


@pytest.mark.parametrize(("kind", "scheme"), [("postgresql", "postgresql"), ("mariadb", "mysql")])
def test_documented_roles_can_run_pipelines(kind: str, scheme: str) -> None:
    server = new_server(kind)
    try:
        for statement in statements(kind):
            server.sql(statement)
        create_tables(f"{scheme}://magnus:choose-one@127.0.0.1:{server.port}/run_logs")
        for statement in statements(f"{kind}-least"):
            server.sql(statement, database="run_logs")
        for role, password in (("magnus", "choose-one"), ("pipelines", "choose-another")):
            store = DBStore(connection_string=f"{scheme}://{role}:{password}@127.0.0.1:{server.port}/run_logs")
            store.create_run_log(role)
            store.set_parameters(role, {"x": 1, "y": 2})
            store.add_step_log(StepLog(name="a", internal_name="a"), role)
            store.add_step_log(StepLog(name="a", internal_name="a", status="SUCCESS"), role)
            store.update_run_log_status(role, "SUCCESS")
            assert store.get_run_log_by_id(role, full=True).steps["a"].status == "SUCCESS"
            store.close()
    finally:
        server.remove()


def mask_variable_parts(line: str) -> str:
    """Replace what differs between runs in a line of output: times, durations, versions and sizes."""
    line = re.sub(r"\d+(\.\d+)?m?s\b|\d+m \d\ds", "TOOK", line)
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "STARTED", line)
    line = re.sub(r"each shop\.[\w-]+\.csv\.evaluate$", "FAILED STEP", line)  # The first of the parallel branches.
    line = re.sub(r"SQLite [\d.]+|[\d.]+ kB", "N", line)
    return re.sub(r"  +", "  ", line).rstrip()


def test_documented_commands_print_the_documented_output(project: Project) -> None:
    for file in (Path(__file__).parent.parent / "examples").glob("*.*"):  # No folders: they may contain runs of a user.
        if file.is_file():
            shutil.copy(str(file), str(project.folder))
    execute = ("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml", "-p", "parameters.yaml", "--run-id")
    for run_id, days in (("calm-hoover", 90), ("keen-curie", 60), ("odd-lamarr", 5)):
        project.write(parameters_yaml={"days": days})
        project.run(*execute, run_id, *(["--tag", "nightly"] if days > 5 else []), fails=days == 5)
    project.environment["PYTHONWARNINGS"] = "ignore"
    tested_commands = []
    for block in re.findall(r"<!-- test: console -->\n```console\n(.*?)```", readme.TEXT, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, *expected = part.splitlines()
            printed = [mask_variable_parts(line) for line in project.run(*shlex.split(command)).splitlines()]
            documented = [mask_variable_parts(line) for line in expected]
            if documented[-1] == "...":
                documented.pop()
                del printed[len(documented) :]
            assert printed == documented
            tested_commands.append(command.split()[2])
    assert {"runs", "show", "diff", "timeline", "check", "copy", "export", "import", "prune"} == set(tested_commands)
    [python] = re.findall(r"<!-- test: notebook -->\n```python\n(.*?)```", readme.TEXT, re.DOTALL)
    printed = project.python("-c", python).splitlines()
    assert [line.split()[:2] for line in printed[:2]] == [["keen-curie", "SUCCESS"], ["calm-hoover", "SUCCESS"]]
    assert printed[2] == "{'days': {'a': 90, 'b': 60}}"


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", readme.TEXT))), ids="::".join)
def test_documented_tests_exist(test: List[str]) -> None:
    file, function = test
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert f"def {function or 'test_'}" in text
