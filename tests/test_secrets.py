"""Secrets are never printed, logged or stored, with any secrets handler."""

import json
import re
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

import peewee
import pytest
from conftest import AnyDatabase, Project
from magnus import context
from magnus.datastore import RunLog
from magnus.secrets import BaseSecrets
from roles import Role
from servers import Database

from magnus_peewee_store import CannotConnectError, DBStore, create_tables

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


class ExpiringSecrets(BaseSecrets):
    """Returns one password after the other, then always the last. The tokens of a cloud expire like that."""

    service_name: str = "expiring"
    passwords: List[str] = []
    reads: int = 0

    def get(self, name: str, **kwargs: Any) -> str:
        self.reads += 1
        return self.passwords.pop(0) if len(self.passwords) > 1 else self.passwords[0]


class Clerk(Role):
    """A role with a password that changes, and a store that connects as the role."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "first")
        self.grant("SELECT, INSERT, UPDATE ON db_log")
        self.secrets = ExpiringSecrets(passwords=["first"])
        self.store = DBStore(connection_string=self.url.replace(":first@", ":${token}@"))
        self.store.set_secrets_handler(self.secrets)

    def end_session(self) -> None:
        session = "CONNECTION_ID()" if self.is_mysql else "pg_backend_pid()"
        [[number]] = self.store.database.execute_sql(f"SELECT {session}").fetchall()
        self.database.sql(f"KILL {number}" if self.is_mysql else f"SELECT pg_terminate_backend({number})")

    def drop(self) -> None:
        self.store.close()
        super().drop()


@pytest.fixture
def clerk(database: AnyDatabase) -> Iterator[Clerk]:
    if not isinstance(database, Database):
        pytest.skip("SQLite has no roles")
    create_tables(database.url)
    clerk = Clerk(database)
    yield clerk
    clerk.drop()


def test_new_password_is_used_for_the_next_connection(clerk: Clerk) -> None:
    clerk.store.create_run_log("run")
    clerk.change_password("second")
    clerk.secrets.passwords = ["second"]
    clerk.store.set_parameters("run", {"x": 1})  # The open connection outlives the password.
    clerk.end_session()
    clerk.store.set_parameters("run", {"x": 2})
    assert clerk.store.get_parameters("run") == {"x": 2}


def test_password_that_expires_while_connecting_is_replaced(clerk: Clerk) -> None:
    clerk.store.create_run_log("run")
    clerk.change_password("second")
    clerk.end_session()
    clerk.secrets.passwords = ["first", "second"]
    clerk.store.set_parameters("run", {"x": 1})
    assert clerk.store.get_parameters("run") == {"x": 1}


def test_unchanged_password_that_is_refused_fails_at_once(clerk: Clerk) -> None:
    clerk.store.create_run_log("run")
    clerk.change_password("second")
    clerk.end_session()
    clerk.secrets.reads = 0
    with pytest.raises(CannotConnectError, match="(?i)authentication failed|access denied") as exc_info:
        clerk.store.set_parameters("run", {"x": 1})
    assert "gave up after" not in str(exc_info.value) and "first" not in str(exc_info.value)
    assert clerk.secrets.reads == 2  # before the connection, and to see whether it has changed
