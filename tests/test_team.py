"""Test the files of examples/team/: the roles, the pipeline with its configuration, the dashboard, CI and Argo."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator, List

import argo
import psycopg
import pytest
from conftest import Project, new_server
from ruamel.yaml import YAML
from servers import SYSTEM, PostgreSQL
from test_documents import EXAMPLES
from test_documents import project as project

TEAM = EXAMPLES / "team"
PASSWORDS = {"PIPELINES_PASSWORD": "it's $ecret", "DASHBOARD_PASSWORD": "another@one"}


def load(name: str) -> Any:
    return YAML(typ="safe").load(TEAM / name)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """Return a server with the roles of roles.sql, and the database run_logs."""
    server = new_server("postgresql")
    assert isinstance(server, PostgreSQL)
    try:
        server.sql("CREATE DATABASE run_logs")
        # As the image's entrypoint does.
        connection = ["--host", str(server.socket_folder), "--port", str(server.port), "--dbname", "run_logs"]
        command = ["psql", "-v", "ON_ERROR_STOP=1", "--username", "postgres", "--no-password", *connection]
        subprocess.run([*command, "-f", str(TEAM / "roles.sql")], check=True, env={**SYSTEM.environment, **PASSWORDS})
        yield server
    finally:
        server.remove()


@pytest.fixture
def team(project: Project, server: PostgreSQL) -> Project:
    """Return the example project with the configuration of the team."""
    shutil.copy(TEAM / "config.yaml", project.folder)
    project.environment.update(PASSWORDS, RUN_LOGS_SERVER=f"127.0.0.1:{server.port}")
    return project


def test_compose_file_names_what_is_there() -> None:
    compose = load("compose.yaml")
    [service] = compose["services"].values()
    for volume in service["volumes"]:
        source = volume.partition(":")[0]
        assert source in compose["volumes"] or (TEAM / source).is_file()
    assert service["environment"]["POSTGRES_DB"] == "run_logs"
    read = re.findall(r"^\\getenv \w+ (\w+)$", (TEAM / "roles.sql").read_text("utf-8"), re.MULTILINE)
    assert read and {*read} <= {*service["environment"]}
    values = [value for name, value in service["environment"].items() if name.endswith("PASSWORD")]
    assert all(re.fullmatch(r"\$\{\w+:\?[\w ]+\}", value) for value in values)


def run_workflow(team: Project) -> List[str]:
    """Run the commands of the workflow but those that install, and return the paths that it uploads."""
    [job] = load("github-workflow.yaml")["jobs"].values()
    for name, value in job["env"].items():
        assert value in [f"${{{{ {kind}.{name} }}}}" for kind in ("secrets", "vars")] and name in team.environment
    for step in job["steps"]:
        if "run" in step and not step["run"].startswith("pip install"):
            team.run("/bin/bash", "-euc", step["run"])
    return [step["with"]["path"] for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact")]


def test_workflow_runs_the_pipeline_and_the_dashboard_shows_it(team: Project, server: PostgreSQL) -> None:
    for path in run_workflow(team):
        assert (team.folder / path / "index.html").is_file()
    team.magnus("db", "create-views", "-c", "config.yaml")
    dashboard = json.loads((TEAM / "dashboard.json").read_text("utf-8"))
    assert dashboard["templating"]["list"][0]["name"] == "datasource"
    password = PASSWORDS["DASHBOARD_PASSWORD"]
    address = {"host": "127.0.0.1", "port": server.port, "dbname": "run_logs"}
    with psycopg.connect(**address, user="dashboard", password=password) as connection:
        for panel in dashboard["panels"]:
            assert panel["datasource"]["uid"] == "${datasource}"
            [target] = panel["targets"]
            sql = target["rawSql"]
            # As Grafana replaces it.
            sql = re.sub(
                r"\$__timeFilter\((.+?)\)", r"\1 BETWEEN '2020-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", sql
            )
            assert "$" not in sql
            result = connection.execute(sql)
            columns = [column.name for column in result.description or ()]
            assert result.fetchall(), panel["title"]
            assert (columns == ["time", "metric", "value"]) == (target["format"] == "time_series")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM db_log")


def test_argo_workflow_runs_with_the_secret(team: Project, server: PostgreSQL, tmp_path: Path) -> None:
    secret = load("argo-secret.yaml")
    text = (TEAM / "argo-config.yaml").read_text("utf-8")
    [volume] = YAML(typ="safe").load(text)["executor"]["config"]["persistent_volumes"]
    catalog = tmp_path / "catalog"
    text = text.replace(volume["mount_path"], str(catalog)).replace("db.example.com:5432", f"127.0.0.1:{server.port}")
    (team.folder / "argo-config.yaml").write_text(text, "utf-8")
    del team.environment["PIPELINES_PASSWORD"]
    team.magnus("execute", "-f", "pipeline.yaml", "-c", "argo-config.yaml", "-p", "parameters.yaml")
    manifest = YAML(typ="safe").load(team.folder / "argo-pipeline.yaml")
    secrets = {secret["metadata"]["name"]: dict.fromkeys(secret["stringData"], PASSWORDS["PIPELINES_PASSWORD"])}
    with argo.separate_output_files():
        workflow = argo.Workflow(manifest, team.folder, secrets, "argo-run")
        assert workflow.run() == argo.SUCCEEDED, [pod.output for pod in workflow.pods if pod.exit_code]
    team.environment.update(PASSWORDS)
    assert "argo-run" in team.magnus("db", "runs", "-c", "config.yaml")
