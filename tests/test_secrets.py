"""Secrets are never printed, logged or stored, with any secrets handler."""

import json
import re
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

# A third-party handler. It reads all of its secrets at once and stores them in two fields.
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


def all_stored_bytes(folder: Path) -> bytes:
    """Return the contents of all files except configuration, including free pages and the write-ahead log."""
    skipped = ("team.env", "config.yaml", "vault.py")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in skipped)
    return b"\n".join(path.read_bytes() for path in files if "dist-info" not in str(path) and path.suffix != ".pyc")


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_run_never_prints_or_stores_secrets(project: Project, handler: str, level: str) -> None:
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
    service_name = run_config["secrets_handler"]["service_name"]
    assert service_name == handler
    assert run_config["run_log_store"]["connection_string"] == "sqlite:///logs-${FOLDER}.db"
    # At the start, magnus prints its configuration. That includes the vault's token, but not its secrets.
    assert "krakenbait" not in output.replace("krakenbait-token", "")
    assert b"krakenbait" not in all_stored_bytes(project.folder)


def test_literal_password_is_never_printed_or_stored(project: Project, database: Any) -> None:
    if "tiger" not in database.url:
        pytest.skip("SQLite has no password")
    config = {"connection_string": database.url}
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": "db", "config": config}})
    assert "tiger" not in project.execute("run")
    stored = [value for (value,) in database.sql("SELECT attribute_value FROM db_log")]
    assert any("scott:***@" in value for value in stored)
    assert not any("tiger" in value for value in stored)


@pytest.mark.parametrize("password", ["krakenbait", "kraken@bait", "kraken%2Fbait"])
def test_connection_error_hides_literal_password(project: Project, password: str) -> None:
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
def test_configuration_error_hides_password(project: Project, config: Any) -> None:
    project.write(pipeline_yaml=PIPELINE, config_yaml={"run_log_store": {"type": "db", "config": config}})
    output = project.execute("run", fails=True)
    assert re.search("(Configuration|ConnectionString)Error", output)
    assert "kraken" not in output and "bait" not in output


class CachingSecrets(BaseSecrets):
    """Caches secrets, as DotEnvSecrets does."""

    service_name: str = "caching"
    secrets: Dict[str, str] = {}

    def get(self, name: str, **kwargs: Any) -> str:
        self.secrets.update(FOLDER="krakenbait", OTHER="krakenbait")
        return self.secrets[name]


def test_run_config_never_stores_secrets(store: DBStore, database: Any) -> None:
    config = {"secrets_handler": {"service_name": "caching", "secrets": {"a": "krakenbait"}}, "tag": "t"}
    store.put_run_log(RunLog(run_id="put", run_config=config))
    store.create_run_log("set")
    store.set_run_config("set", config)
    store.create_run_log("added")
    store.add_branch_log(RunLog(run_id="added", run_config=config), "added")
    for run_id in ("put", "set", "added"):
        assert store.get_run_config(run_id) == {"secrets_handler": {"service_name": "caching"}, "tag": "t"}
    assert config["secrets_handler"]["secrets"] == {"a": "krakenbait"}  # the caller's dict is unchanged
    assert "krakenbait" not in json.dumps(database.sql("SELECT attribute_value FROM db_log"))


def test_connection_error_hides_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(secrets_handler=CachingSecrets()))
    (tmp_path / "krakenbait").write_text("not a folder")
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/${{FOLDER}}/runs.db")
    with pytest.raises(peewee.OperationalError) as exc_info:
        store.create_run_log("run")
    assert "krakenbait" not in "".join(traceback.format_exception(None, exc_info.value, exc_info.value.__traceback__))
    assert "${FOLDER}/runs.db" in str(exc_info.value)
