"""No secret is printed, logged or stored, by any path, whatever secrets handler is used."""

import json
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

import peewee
import pytest
from conftest import Project
from magnus import context
from magnus.datastore import RunLog
from magnus.secrets import BaseSecrets

from magnus_peewee_store import DBStore

PIPELINE = {
    "dag": {
        "start_at": "wait",
        "steps": {
            "wait": {"type": "stub", "next": "success"},
            "success": {"type": "success"},
            "fail": {"type": "fail"},
        },
    }
}

# A handler of somebody else's: it reads all of its secrets at once and keeps them, each in a way of its own.
VAULT = """
from typing import Any, Dict, List
from magnus.secrets import BaseSecrets

class Vault(BaseSecrets):
    service_name: str = "vault"
    token: str = "krakenbait-token"
    cache: Dict[str, Any] = {}
    values: List[str] = []

    def get(self, name: str = "", **kwargs) -> str:
        self.cache["all"] = {"FOLDER": "krakenbait-folder", "OTHER": "krakenbait-other"}
        self.values.append("krakenbait-folder")
        return self.cache["all"][name]
"""

HANDLERS: Dict[str, Dict[str, Any]] = {
    "do-nothing": {"type": "do-nothing"},
    "env-secrets-manager": {"type": "env-secrets-manager"},
    "dotenv": {"type": "dotenv", "config": {"location": "team.env"}},
    "vault": {"type": "vault"},
}


def everything_kept(folder: Path) -> bytes:
    """All that stands in the database, free pages and write-ahead log included, and in files beside it."""
    skipped = ("team.env", "config.yaml", "vault.py")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in skipped)
    return b"\n".join(path.read_bytes() for path in files if "dist-info" not in str(path) and path.suffix != ".pyc")


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_a_run_neither_prints_nor_keeps_a_secret(project: Project, handler: str, level: str) -> None:
    plugin = project.folder / "site" / "vault-1.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[secrets]\nvault = vault:Vault\n")
    (project.folder / "site" / "vault.py").write_text(VAULT)
    project.environment.update(PYTHONPATH=str(project.folder / "site"), FOLDER="krakenbait-folder")
    project.write(
        pipeline_yaml=PIPELINE,
        team_env="FOLDER=krakenbait-folder\nOTHER=krakenbait-other\n",
        config_yaml={
            "secrets": HANDLERS[handler],
            "run_log_store": {"type": "db", "config": {"connection_string": "sqlite:///logs-${FOLDER}.db"}},
        },
    )
    output = project.execute("run", "--log-level", level)

    expected = "logs-${FOLDER}.db" if handler == "do-nothing" else "logs-krakenbait-folder.db"
    store = DBStore(connection_string=f"sqlite:///{project.folder}/{expected}")
    run_config = store.get_run_config("run")
    store.close()
    told = run_config["secrets_handler"]["service_name"]
    assert told == handler
    assert run_config["run_log_store"]["connection_string"] == "sqlite:///logs-${FOLDER}.db"
    # The vault's own token is configuration, which magnus prints at the start; its secrets are not.
    assert "krakenbait" not in output.replace("krakenbait-token", "")
    assert b"krakenbait" not in everything_kept(project.folder)


def test_a_password_that_stands_in_the_configuration_is_neither_printed_nor_kept(
    project: Project, database: Any
) -> None:
    if "tiger" not in database.url:
        pytest.skip("an SQLite file has no password")
    config = {"connection_string": database.url}
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": "db", "config": config}})
    assert "tiger" not in project.execute("run")
    kept = [value for (value,) in database.sql("SELECT attribute_value FROM db_log")]
    assert any("scott:***@" in value for value in kept)
    assert not any("tiger" in value for value in kept)


@pytest.mark.parametrize("password", ["krakenbait", "kraken@bait", "kraken%2Fbait"])
def test_a_password_in_the_connection_string_is_neither_printed_nor_told_in_an_error(
    project: Project, password: str
) -> None:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    url = f"postgresql://scott:{password}@127.0.0.1:1/db"
    config = {"connection_string": url, "retry_timeout": 0}
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": "db", "config": config}})
    output = project.execute("run", fails=True)
    assert "Cannot connect to" in output and "postgresql://scott:***@127.0.0.1:1/db" in output.replace("\n", "")
    assert "kraken" not in output and "bait" not in output


@pytest.mark.parametrize(
    "config",
    [
        {"conection_string": "postgresql://scott:krakenbait@h/db"},
        {"connection_string": "postgresql://scott:krakenbait@h/db", "password": "krakenbait"},
        {"connection_string": {"password": "krakenbait"}},
        {"connection_string:postgresql://scott:krakenbait@h/db": None},
        {"connection_string": "postgresql://scott:kraken/bait@h/db"},
        {"connection_string": "postgresql://scott:kraken#bait@h/db"},
        {"connection_string": "postgres//scott:krakenbait@h/db"},
        {"connection_string": "postgresql://scott:krakenbait"},
    ],
)
def test_a_mistake_in_the_configuration_is_told_without_the_password(project: Project, config: Any) -> None:
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": "db", "config": config}})
    output = project.execute("run", fails=True)
    assert "ConnectionStringError" in output
    assert "kraken" not in output and "bait" not in output


class Keeps(BaseSecrets):
    """Keeps what it was asked for, as DotEnvSecrets does."""

    service_name: str = "keeps"
    secrets: Dict[str, str] = {}

    def get(self, name: str, **kwargs: Any) -> str:
        self.secrets.update(FOLDER="krakenbait", OTHER="krakenbait")
        return self.secrets[name]


def test_no_way_of_writing_a_run_config_stores_what_the_secrets_handler_holds(store: DBStore, database: Any) -> None:
    config = {"secrets_handler": {"service_name": "keeps", "secrets": {"a": "krakenbait"}}, "tag": "t"}
    store.put_run_log(RunLog(run_id="put", run_config=config))
    store.create_run_log("set")
    store.set_run_config("set", config)
    store.create_run_log("added")
    store.add_branch_log(RunLog(run_id="added", run_config=config), "added")
    for run_id in ("put", "set", "added"):
        assert store.get_run_config(run_id) == {"secrets_handler": {"service_name": "keeps"}, "tag": "t"}
    assert config["secrets_handler"]["secrets"] == {"a": "krakenbait"}  # the caller's own, untouched
    assert "krakenbait" not in json.dumps(database.sql("SELECT attribute_value FROM db_log"))


def test_an_error_in_opening_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(secrets_handler=Keeps()))
    (tmp_path / "krakenbait").write_text("in the way")
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/${{FOLDER}}/runs.db")
    with pytest.raises(peewee.OperationalError) as failure:
        store.create_run_log("run")
    assert "krakenbait" not in "".join(traceback.format_exception(None, failure.value, failure.value.__traceback__))
    assert "${FOLDER}/runs.db" in str(failure.value)
