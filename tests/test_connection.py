"""Connection strings: which are valid, which database they name, and how they are masked."""

import contextlib
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, List
from urllib.parse import quote

import peewee
import pytest
from click.testing import CliRunner
from conftest import DRIVERS, AnyDatabase, SqliteFile, new_store
from hypothesis import given, settings
from hypothesis import strategies as st
from magnus import context
from magnus.extensions.secrets.dotenv.implementation import DotEnvSecrets
from magnus.extensions.secrets.env_secrets.implementation import EnvSecretsManager
from magnus.secrets import DoNothingSecretManager
from playhouse.postgres_ext import Psycopg3Database
from servers import OWNER, PASSWORD

from magnus_peewee_store import (
    CannotConnectError,
    ConfigurationError,
    DBStore,
    MissingTableError,
    cli,
    create_tables,
    runs,
)
from magnus_peewee_store.db.url import ConnectionString, make_database
from magnus_peewee_store.runs.transfer import is_same_database


def secret_getter(**values: str) -> Any:
    return values.__getitem__


# SQLite files


def test_default_file_is_in_run_log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore()
    store.create_run_log("run")
    store.close()
    assert [path.name for path in (tmp_path / ".run_log_store").iterdir()] == ["run_log.db"]


def test_relative_path_ignores_later_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string="sqlite:///logs/deep/runs.db")
    store.create_run_log("run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.close()
    assert store.get_run_log_by_id("run").run_id == "run"
    store.close()
    assert (tmp_path / "logs" / "deep" / "runs.db").exists()


@pytest.mark.parametrize("name", ["runs.db", "my runs.db", "a@b:c.db", "100%.db", "%41.db", "\N{SNAKE}.db"])
def test_file_name_is_not_decoded(tmp_path: Path, name: str) -> None:
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/{name}")
    store.create_run_log("run")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string="sqlite:///~/logs/runs.db")
    store.create_run_log("run")
    store.close()
    assert (tmp_path / "home" / "logs" / "runs.db").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize("template", ["sqlite:///~/runs.db", "sqlite:///~/${name}", "${dsn}"])
def test_file_in_a_folder_named_tilde_is_not_overlooked(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "runs.db").touch()
    with pytest.raises(ConfigurationError) as exc_info:
        make_database(template, secret_getter(name="runs.db", dsn="sqlite:///~/runs.db"))
    home, here = ("home", "~") if template == "${dsn}" else (f"home/{template[12:]}", template[10:])
    assert f"names {tmp_path}/{home}, but there is also {tmp_path}/{here}," in str(exc_info.value)


def test_in_memory_database_lasts_until_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string="sqlite:///:memory:")
    store.create_run_log("run")
    assert store.get_run_log_by_id("run").run_id == "run"
    assert not list(tmp_path.iterdir())
    store.close()
    store.create_run_log("run")


def test_two_stores_in_one_process(tmp_path: Path) -> None:
    stores = [DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in "ab"]
    for number, store in enumerate(stores):
        store.create_run_log("run", tag=str(number))
    assert [store.get_run_log_by_id("run").tag for store in stores] == ["0", "1"]


def test_collected_store_closes_its_connection(database: AnyDatabase) -> None:
    """magnus closes no store, and a connection that is not closed is a warning."""
    store = DBStore(connection_string=database.url)
    store.create_run_log("run")
    connection = store.database._state.conn
    del store
    gc.collect()
    with pytest.raises(Exception, match="closed|^\\(0, ''\\)$"):
        connection.cursor().execute("SELECT 1")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite://logs/runs.db", "sqlite:///logs/runs.db"),
        ("sqlite://", "sqlite:///runs.db"),
        ("sqlite:///", "sqlite:///runs.db"),
    ],
)
def test_sqlite_url_without_file_raises(wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as exc_info:
        DBStore(connection_string=wrong).create_run_log("run")
    assert f" {right} " in str(exc_info.value)


@pytest.mark.parametrize(
    "wrong",
    ["", "runs.db", "oracle://u:pw@h/db", "sqlite:runs.db", "u:pw@h/db", "sqlite:///a#b.db", "sqlite:///a?b.db"],
)
def test_invalid_connection_string_raises(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite://|#") as exc_info:
        make_database(wrong)
    assert "pw" not in str(exc_info.value)


def test_error_names_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(peewee.OperationalError, match=f"Cannot connect to sqlite:///{tmp_path}/file/runs.db: "):
        DBStore(connection_string=f"sqlite:///{tmp_path}/file/runs.db").create_run_log("run")


def test_file_that_is_not_a_database_raises_and_stays_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.write_text("not a database " * 100)
    store = DBStore(connection_string=f"sqlite:///{path}")
    for call in (lambda: store.get_run_log_by_id("run"), lambda: store.create_run_log("run")):
        with pytest.raises(peewee.PeeweeException, match="not a database"):
            call()
    assert path.read_text() == "not a database " * 100


def test_sqlite_settings(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    database = store.database
    assert database.journal_mode == "wal"
    assert database.synchronous == 2  # FULL
    assert database.pragma("busy_timeout") == 1000
    statements = []
    connection = database.connection()
    connection.set_trace_callback(statements.append)
    store.update_run_log_status("run", "SUCCESS")
    assert statements[0] == "BEGIN IMMEDIATE"


# The table


def test_create_tables_twice_keeps_rows(store: DBStore, database: Any) -> None:
    create_tables(database.url)
    store.create_run_log("run")
    create_tables(database.url)
    assert store.get_run_log_by_id("run").run_id == "run"
    indexes = store.database.get_indexes("db_log")
    assert (["run_id", "attribute_type", "attribute_key"], True) in [(each.columns, each.unique) for each in indexes]


def test_create_tables_adds_missing_indexes(database: AnyDatabase) -> None:
    create_tables(database.url)
    peewee_database = make_database(database.url)
    peewee_database.connect()
    indexes = {(tuple(each.columns), each.unique) for each in peewee_database.get_indexes("db_log")}
    for index in peewee_database.get_indexes("db_log"):
        if "pk" not in index.columns:
            on = " ON db_log" if isinstance(peewee_database, peewee.MySQLDatabase) else ""
            database.sql(f"DROP INDEX {index.name}{on}")
    create_tables(database.url)
    assert {(tuple(each.columns), each.unique) for each in peewee_database.get_indexes("db_log")} == indexes
    peewee_database.close()


def test_columns_match_the_documentation(store: DBStore) -> None:
    store.create_run_log("run")
    columns = store.database.get_columns("db_log")
    assert [column.name for column in columns] == [
        *("pk", "run_id", "attribute_key", "attribute_type", "attribute_value", "created_at")
    ]
    assert not any(column.null for column in columns)


@contextlib.contextmanager
def as_read_only_user(folder: Path) -> Iterator[None]:
    """Become a user who can read the folder but not write to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    for each in (folder, *folder.parents):
        os.chmod(each, os.stat(each).st_mode | 0o555)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_missing_table_error_names_create_tables(tmp_path: Path, sqlite_file: SqliteFile) -> None:
    sqlite_file.path.touch()
    with as_read_only_user(tmp_path), pytest.raises(MissingTableError) as exc_info:
        DBStore(connection_string=sqlite_file.url).get_run_log_by_id("run")
    assert "db.create_tables(" in str(exc_info.value)


def test_read_only_file_can_be_read(tmp_path: Path, sqlite_file: SqliteFile) -> None:
    create_tables(sqlite_file.url)
    sqlite_file.sql("INSERT INTO db_log VALUES (1, 'run', 'run_log', 'RunLog', '{\"run_id\": \"run\"}', '2024-01-01')")
    sqlite_file.sql("PRAGMA journal_mode = delete")
    with as_read_only_user(tmp_path):
        store = DBStore(connection_string=sqlite_file.url)
        assert store.get_run_log_by_id("run").run_id == "run"
        with pytest.raises(peewee.OperationalError, match="readonly"):
            store.update_run_log_status("run", "SUCCESS")


# Configuration


def test_misspelled_key_is_named_without_its_value() -> None:
    store = DBStore(conection_string="sqlite:///swordfish.db")
    with pytest.raises(ConfigurationError, match="conection_string.*connection_string") as exc_info:
        store.get_run_log_by_id("run")
    assert "swordfish" not in str(exc_info.value) + repr(store) + str(store.model_dump())


def test_connection_string_that_is_not_a_string_raises() -> None:
    with pytest.raises(ConfigurationError, match="'connection_string'.*string"):
        DBStore(connection_string=None).get_run_log_by_id("run")


def test_creating_a_store_does_not_connect(tmp_path: Path) -> None:
    DBStore(connection_string=f"sqlite:///{tmp_path}/runs.db")
    assert not list(tmp_path.iterdir())


# Placeholders


@pytest.mark.parametrize(
    ("template", "values", "path"),
    [
        ("sqlite:////data/${name}.db", {"name": "runs"}, "/data/runs.db"),
        ("sqlite:////data/$name", {"name": "runs.db"}, "/data/runs.db"),
        ("${dsn}", {"dsn": "sqlite:////data/runs.db"}, "/data/runs.db"),
        ("sqlite:////data/${unknown}/$$x.db", {}, "/data/${unknown}/$x.db"),
        ("sqlite:////data/${a}.db", {"a": "${b}", "b": "never"}, "/data/${b}.db"),
        ("${dsn}", {"dsn": "sqlite:////data/$$${b}.db", "b": "never"}, "/data/$$${b}.db"),
        ("sqlite:///${path}", {"path": "/data/a?b#c.db"}, "/data/a?b#c.db"),
    ],
)
def test_placeholders_follow_string_template(template: str, values: Any, path: str) -> None:
    assert make_database(template, secret_getter(**values)).database == path


@pytest.mark.parametrize("password", ["tiger", "p@ss/w#rd?:%41[x]", "$5", "${x}", "a b", "\N{SNAKE}", "%"])
def test_password_secret_is_taken_literally(password: str) -> None:
    template = "postgresql://${user}:${password}@localhost:5432/mydatabase"
    database = make_database(template, secret_getter(user="sc@tt", password=password))
    assert [database.connect_params[name] for name in ("user", "password", "host", "port")] == [
        "sc@tt",
        password,
        "localhost",
        5432,
    ]
    assert database.database == "mydatabase"


def test_literal_password_is_percent_decoded() -> None:
    database = make_database("postgresql://scott:p%40ss$word@localhost/mydatabase")
    assert database.connect_params["password"] == "p@ss$word"


@pytest.mark.parametrize("template", ["${start}/db", "postgresql://${rest}"])
def test_secret_of_several_parts_is_refused(template: str) -> None:
    secrets = {"start": "postgresql://scott:tiger@h", "rest": "scott:tiger@h/db"}
    with pytest.raises(ConfigurationError) as exc_info:
        make_database(template, secret_getter(**secrets))
    assert "tiger" not in str(exc_info.value)


def test_secret_may_hold_hosts_and_query() -> None:
    template = "postgresql://scott@${hosts}/${name}?${options}"
    secrets = secret_getter(hosts="h1:5432,[::1]", name="db", options="connect_timeout=3&sslmode=require")
    parameters = make_database(template, secrets).connect_params
    assert [parameters[name] for name in ("host", "port", "connect_timeout")] == ["h1,::1", "5432,", 3]
    assert parameters["sslmode"] == "require"


def set_secrets_handler(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(run_id="of the pipeline", secrets_handler=handler))


def test_secrets_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_FOLDER", str(tmp_path))
    set_secrets_handler(EnvSecretsManager(prefix="TEAM_"), monkeypatch)
    DBStore(connection_string="sqlite:///${FOLDER}/runs.db").create_run_log("run")
    assert (tmp_path / "runs.db").exists()


def test_secrets_from_dotenv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team.env").write_text(f"FOLDER={tmp_path}\n")
    set_secrets_handler(DotEnvSecrets(location=str(tmp_path / "team.env")), monkeypatch)
    DBStore(connection_string="sqlite:///${FOLDER}/runs.db").create_run_log("run")
    assert (tmp_path / "runs.db").exists()


@pytest.mark.parametrize("handler", [DoNothingSecretManager(), EnvSecretsManager()], ids=lambda each: each.service_name)
def test_placeholder_without_secret_is_kept_and_logged(
    handler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_secrets_handler(handler, monkeypatch)
    monkeypatch.setattr(logging.getLogger("magnus"), "propagate", True)
    DBStore(connection_string=f"sqlite:///{tmp_path}/${{NO_SUCH_SECRET}}.db").create_run_log("run")
    assert (tmp_path / "${NO_SUCH_SECRET}.db").exists()
    assert any("no secret is named NO_SUCH_SECRET" in record.getMessage() for record in caplog.records)


def test_connection_error_names_placeholder_without_secret(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/file/${{FOLDER}}/runs.db")
    with pytest.raises(peewee.OperationalError, match="no secret is named FOLDER"):
        store.create_run_log("run")


@pytest.mark.parametrize("user", ["scott", "sc$ott"])
@pytest.mark.parametrize("password", ["$uperSecret1", "pa$sw0rd", "${given}$sw0rd"])
def test_password_that_looks_like_a_placeholder_is_hidden(
    user: str, password: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("magnus"), "propagate", True)
    url = f"mysql://{user}:{password}@127.0.0.1:1/db?x=${{unknown}}"
    database = make_database(url, secret_getter(given="krakenbait"), retry_timeout=0)
    with pytest.raises(peewee.OperationalError) as exc_info:
        database.connect()
    for text in (str(exc_info.value), caplog.text, ConnectionString(url).masked):
        assert not re.search("uper|Secret1|sw0rd|ott@|kraken|(?<!s)c.ott", text.replace("scott:", ""))
    for text in (str(exc_info.value), caplog.text):
        assert "no secret is named unknown" in text and f"://{'scott' if user == 'scott' else '***'}:***@" in text


def test_placeholder_without_braces_is_filled() -> None:
    database = make_database("postgresql://$user:$password@$host/db", secret_getter(user="u", password="p", host="h"))
    assert [database.connect_params[name] for name in ("user", "password", "host")] == ["u", "p", "h"]
    assert database.masked_url == "postgresql://***:***@***/db"


# Masking


@pytest.mark.parametrize(
    ("connection_string", "masked"),
    [
        ("sqlite:///runs.db", "sqlite:///runs.db"),
        ("sqlite:////a@b/${name}.db?x=1", "sqlite:////a@b/${name}.db"),
        ("${dsn}", "${dsn}"),
        ("postgresql://scott:${password}@h:5432/db", "postgresql://scott:${password}@h:5432/db"),
        ("postgresql://scott:tiger@h:5432/db?sslpassword=x", "postgresql://scott:***@h:5432/db"),
        ("postgresql://scott:ti${ge}r@h/db", "postgresql://scott:***@h/db"),
        ("postgresql://scott:ti@ger@h1:1,[::1]:2/db", "postgresql://scott:***@h1:1,[::1]:2/db"),
        (
            "postgresql://${user}:${password}@${host}:${port}/${db}?a=${b}",
            "postgresql://${user}:${password}@${host}:${port}/${db}",
        ),
        ("postgresql://scott:$tiger@h/db", "postgresql://scott:***@h/db"),
        ("postgresql://sc$ott@h/db", "postgresql://***@h/db"),
        ("postgresql://scott:$tiger/db", "postgresql://***/db"),
        ("sqlite://scott:tiger@h/db", "sqlite://scott:***@h/db"),
        ("postgresql://scott:ti/ger@h/db", "postgresql://***"),
        ("postgresql://scott:ti?ger@h/db", "postgresql://***"),
        ("postgresql://scott:ti#ger@h/db", "postgresql://***"),
        ("postgresql://h/db?password=ti@ger", "postgresql://***"),
        ("postgresql://scott:Qz000@00zQ", "postgresql://***"),
        ("postgresql://scott:Qz000", "postgresql://***"),
        ("host=h password=tiger", "***"),
    ],
)
def test_mask_hides_password(connection_string: str, masked: str) -> None:
    assert ConnectionString(connection_string).masked == masked
    assert DBStore(connection_string=connection_string).model_dump()["connection_string"] == masked


def test_repr_and_dump_hide_password() -> None:
    store = DBStore(connection_string="postgresql://scott:tiger@localhost/db")
    assert "tiger" not in repr(store) + str(store) + store.model_dump_json() + str(store.model_dump())


@pytest.mark.parametrize("password", ["tiger", "${password}"])
def test_connection_error_hides_password(password: str, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    database = make_database(
        f"postgresql://scott:{password}@127.0.0.1:1/db", secret_getter(password="tiger"), retry_timeout=0
    )
    with pytest.raises(peewee.OperationalError, match="Cannot connect to postgresql://scott:") as exc_info:
        database.connect()
    assert "tiger" not in str(exc_info.value) + repr(exc_info.value)
    assert exc_info.value.__suppress_context__


def test_import_needs_no_server_driver() -> None:
    subprocess.run([sys.executable, "-c", "import magnus_peewee_store"], check=True)


# Schemes and drivers


@pytest.mark.parametrize(
    ("scheme", "database_class"),
    [
        ("sqlite+pysqlite", peewee.SqliteDatabase),
        ("postgresql", peewee.PostgresqlDatabase),
        ("postgres", peewee.PostgresqlDatabase),
        ("postgresql+psycopg2", peewee.PostgresqlDatabase),
        ("postgresql+psycopg", Psycopg3Database),
        ("psycopg3", Psycopg3Database),
        ("mysql", peewee.MySQLDatabase),
        ("mysql+pymysql", peewee.MySQLDatabase),
        ("mysql+mysqldb", peewee.MySQLDatabase),
        ("mariadb", peewee.MySQLDatabase),
        ("mariadb+pymysql", peewee.MySQLDatabase),
    ],
)
def test_playhouse_and_sqlalchemy_schemes(scheme: str, database_class: type) -> None:
    database = make_database(f"{scheme}:///db" if scheme.startswith("sqlite") else f"{scheme}://scott:tiger@h/db")
    assert isinstance(database, database_class)
    assert database.connect_params.get("password", "tiger") == "tiger"


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [
        ("postgresql", "Psycopg3"),
        ("postgres", "Psycopg3"),
        ("psycopg3", "Psycopg3"),
        ("postgresql+psycopg", "Psycopg3"),
        ("postgresql+psycopg2", "Psycopg2"),
    ],
)
def test_postgresql_driver(scheme: str, driver: str) -> None:
    if not (peewee.psycopg and peewee.psycopg2):
        pytest.skip("needs psycopg 3 and psycopg2")
    tokens = iter("abc")
    database = make_database(f"{scheme}://scott:${{token}}@127.0.0.1:1/db", lambda name: next(tokens), retry_timeout=0)
    assert type(database._adapter).__name__.startswith(driver)
    with pytest.raises(peewee.OperationalError):
        database.connect()  # with the next token
    assert type(database._adapter).__name__.startswith(driver)


def test_postgresql_takes_the_driver_that_is_installed() -> None:
    script = """
import sys
sys.modules["psycopg"] = None  # makes its import fail
from magnus_peewee_store.db.url import make_database
print(type(make_database("postgresql://scott@h/db")._adapter).__name__)
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "Psycopg2Adapter"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql", "psycopg3", "sqlite"])
def test_pool_is_refused_with_the_plain_scheme(scheme: str) -> None:
    rest = "/runs.db" if scheme == "sqlite" else "scott:tiger@h/db"
    with pytest.raises(ConfigurationError, match=rf"Write {scheme}:// instead of {scheme}\+pool://") as exc_info:
        DBStore(connection_string=f"{scheme}+pool://{rest}").create_run_log("run")
    assert "tiger" not in str(exc_info.value)


@pytest.mark.parametrize(
    ("url", "warnings"),
    [
        ("cockroachdb://scott:tiger@h/db", 1),
        ("postgresext://scott:tiger@h/db", 1),
        ("mysql+mysqlconnector://scott:tiger@h/db", 0),
        ("postgresql+psycopg://scott:tiger@h/db", 0),
        ("sqlite:///:memory:", 0),
    ],
)
def test_untested_scheme_warns_once(url: str, warnings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: List[str] = []
    monkeypatch.setattr(logging.getLogger("magnus.db"), "handle", lambda record: messages.append(record.getMessage()))
    make_database(url)
    assert len(messages) == warnings
    assert all(
        "no test of this package covers the scheme" in message and "tiger" not in message for message in messages
    )


def test_mysqlconnector_reads_writes_and_reconnects(server_databases: Any) -> None:
    pytest.importorskip("mysql.connector")
    database = server_databases("mysql+mysqlconnector")
    store = DBStore(connection_string=database.url)
    try:
        store.create_run_log("run")
        store.set_parameters("run", {"x": 1, "\N{SNAKE}": [float("inf"), "a ", "A"]})
        [[session]] = store.database.execute_sql("SELECT CONNECTION_ID()").fetchall()
        database.sql(f"KILL {session}")
        store.set_parameters("run", {"x": 2})
        assert store.get_parameters("run") == {"x": 2, "\N{SNAKE}": [float("inf"), "a ", "A"]}
        assert runs.check(store).is_healthy
    finally:
        store.close()
        database.sql("DROP TABLE db_log")


@pytest.mark.parametrize("scheme", DRIVERS)
def test_server_that_never_answers_is_given_up(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://scott:tiger@127.0.0.1:{listener.getsockname()[1]}/db?connect_timeout=1"
        deadline = threading.Timer(30, listener.close)
        deadline.start()
        try:
            with new_store(url) as store, pytest.raises(CannotConnectError):
                store.get_parameters("run")
            assert deadline.is_alive()
        finally:
            deadline.cancel()


def test_store_does_not_wait_for_the_first_connection_of_another_store(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as executor:
        url = f"postgresql://scott:tiger@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2"
        with new_store(url) as waiting_store, new_store(f"sqlite:///{tmp_path}/runs.db") as store:
            waiting = executor.submit(waiting_store.get_parameters, "run")
            connection, _ = silent.accept()
            store.create_run_log("run")
            assert not waiting.done()
            connection.close()
            assert isinstance(waiting.exception(), CannotConnectError)


@pytest.mark.parametrize("scheme", [each for each in DRIVERS if each.startswith("mysql")])
def test_statement_may_take_longer_than_the_connection(scheme: str, server_databases: Any) -> None:
    with new_store(f"{server_databases(scheme).url}?connect_timeout=1") as store:
        [[result]] = store.database.retry(lambda: store.database.execute_sql("SELECT SLEEP(1.5)").fetchall())
        assert result == 0


def test_unknown_scheme_error_lists_known_schemes() -> None:
    with pytest.raises(ConfigurationError, match=r"mysql\+pymysql://.*postgresql://.*sqlite://"):
        make_database("oracle://scott:tiger@h/db")


@pytest.mark.parametrize(
    ("scheme", "drivers", "extra"),
    [
        ("postgresql", ["psycopg", "psycopg2"], "postgres"),
        ("psycopg3", ["psycopg", "psycopg2"], "postgres"),
        ("mysql", ["pymysql", "MySQLdb"], "mysql"),
    ],
)
def test_missing_driver_error_names_the_extra(scheme: str, drivers: List[str], extra: str) -> None:
    script = f"""
import sys
sys.modules.update(dict.fromkeys({drivers}))  # makes each import fail
from magnus_peewee_store import DBStore
DBStore(connection_string=sys.argv[1]).get_run_log_by_id("run")
"""
    url = f"{scheme}://scott:tiger@127.0.0.1:1/db"
    process = subprocess.run([sys.executable, "-c", script, url], stderr=subprocess.PIPE, text=True, timeout=50)
    assert f"with its extra '{extra}'" in process.stderr
    assert "tiger" not in process.stderr


@pytest.mark.parametrize(
    ("scheme", "package"), [("apsw", "apsw"), ("cysqlite", "cysqlite"), ("mariadb+mariadbconnector", "mariadb")]
)
def test_missing_driver_without_an_extra(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magnus_peewee_store.db.url.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=rf"{re.escape(scheme)}:// needs .*: pip install {package}$"):
        make_database(f"{scheme}:///runs.db")


@pytest.mark.parametrize("option", ["thread_safe=true", "retry_timeout=3"])
def test_invalid_option_is_not_blamed_on_the_secrets_handler(option: str) -> None:
    url = f"mysql://scott:tiger@127.0.0.1:1/db?{option}"
    result = CliRunner().invoke(cli.db, ["check", "--connection-string", url])
    assert result.exit_code == 1 and option.partition("=")[0] in result.output
    assert "secrets handler" not in result.output and "tiger" not in result.output


def test_options_and_multiple_hosts_reach_libpq() -> None:
    database = make_database(
        "postgresql://scott:${password}@h1:5432,[::1],h3/db"
        "?target_session_attrs=read-write&sslmode=require&options=-csearch_path%3Dteam_a",
        secret_getter(password="tiger"),
    )
    parameters = {
        name: database.connect_params[name] for name in ("host", "port", "target_session_attrs", "sslmode", "options")
    }
    assert parameters == {
        "host": "h1,::1,h3",
        "port": "5432,,",
        "target_session_attrs": "read-write",
        "sslmode": "require",
        "options": "-csearch_path=team_a",
    }


@pytest.mark.parametrize("password", ["012345", "true", "1.50", "None"])
@pytest.mark.parametrize("name", ["password", "passwd"])
def test_password_option_is_always_text(name: str, password: str) -> None:
    database = make_database(f"mysql://scott@127.0.0.1:1/db?{name}={password}", retry_timeout=0)
    assert database.connect_params["password"] == password
    with pytest.raises(peewee.OperationalError, match="Cannot connect"):
        database.connect()


def test_connection_string_from_one_secret_is_hidden() -> None:
    database = make_database("${dsn}", secret_getter(dsn="postgresql://scott:tiger@127.0.0.1:1/db?sslmode=swordfish"))
    with pytest.raises(peewee.OperationalError, match=r"Cannot connect to \$\{dsn\}") as exc_info:
        database.connect()
    assert not [part for part in ("scott", "tiger", "127.0.0.1", "swordfish") if part in str(exc_info.value)]


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_search_path_option_selects_the_schema(scheme: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    database.sql(f"CREATE SCHEMA team_a AUTHORIZATION {OWNER}")
    store = DBStore(connection_string=database.url + "?options=-csearch_path%3Dteam_a")
    try:
        store.create_run_log("run")
        store.set_parameters("run", {"x": 1})
        assert database.sql("SELECT attribute_key FROM team_a.db_log ORDER BY pk") == [("run_log",), ("x",)]
        assert database.sql("SELECT to_regclass('public.db_log') IS NULL") == [(True,)]
    finally:
        store.close()
        database.sql("DROP SCHEMA team_a CASCADE")


@pytest.mark.parametrize("schema", ["team_a", 'Team "A"', "123"])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_schema_option_selects_the_schema(scheme: str, schema: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    quoted = '"' + schema.replace('"', '""') + '"'
    database.sql(f"CREATE SCHEMA {quoted} AUTHORIZATION {OWNER}")
    url = f"{database.url}?schema={quote(schema)}"
    store, other_store = DBStore(connection_string=url), DBStore(connection_string=database.url)
    try:
        assert create_tables(url) == ["the table db_log"]
        assert create_tables(url) == []
        store.create_run_log("run")
        store.set_parameters("run", {"x": 1, "y": 2})
        store.update_run_log_status("run", "SUCCESS")
        assert store.get_run_log_by_id("run").parameters == {"x": 1, "y": 2}
        assert [row.run_id for row in runs.list_runs(store)] == ["run"]
        assert runs.check(store).is_healthy and runs.check(store).size > 0
        assert database.sql(f"SELECT attribute_key FROM {quoted}.db_log ORDER BY pk") == [("run_log",), ("x",), ("y",)]
        assert not is_same_database(store, other_store)
        other_store.create_run_log("other run")
        assert [row.run_id for row in runs.list_runs(store)] == ["run"]
    finally:
        store.close()
        other_store.close()
        database.sql(f"DROP SCHEMA {quoted} CASCADE")
        database.sql("DROP TABLE IF EXISTS db_log")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_schema_option_completes_legacy_table(scheme: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    database.sql(f"CREATE SCHEMA team_a AUTHORIZATION {OWNER}")
    columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at TIMESTAMP"
    database.sql("CREATE SEQUENCE team_a.id_seq")
    database.sql(f"CREATE TABLE team_a.db_log (pk INTEGER NOT NULL PRIMARY KEY, {columns})")
    database.sql(f"ALTER TABLE team_a.db_log OWNER TO {OWNER}")
    database.sql(f"ALTER SEQUENCE team_a.id_seq OWNER TO {OWNER}")
    url = f"{database.url}?schema=team_a"
    store = DBStore(connection_string=url)
    try:
        store.create_run_log("run")
        store.close()
        create_tables(url)
        assert create_tables(url) == []
        store.set_parameters("run", {"x": 1})
        assert database.sql("SELECT pk, attribute_key FROM team_a.db_log ORDER BY pk") == [(1, "run_log"), (2, "x")]
    finally:
        store.close()
        database.sql("DROP SCHEMA team_a CASCADE")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg", "mysql+pymysql"])
def test_connect_through_unix_socket(scheme: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    server = database.server
    option = (
        f"host={server.socket_folder}&port={server.port}"
        if server.kind == "postgresql"
        else f"unix_socket={server.socket}"
    )
    store = DBStore(connection_string=f"{scheme}://{OWNER}:{PASSWORD}@/{database.name}?{option}")
    try:
        store.create_run_log("run")
        assert database.sql("SELECT run_id FROM db_log") == [("run",)]
    finally:
        store.close()
        database.sql("DROP TABLE db_log")


@pytest.mark.parametrize("password", ["p@ss/w#rd?:%41[x]", "$ecret ${x} \\ ' \" ;"])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg", "mysql+pymysql"])
def test_server_accepts_any_character_in_secrets(scheme: str, password: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    quoted = password.replace("'", "''")
    if database.server.dialect == "mysql":
        quoted = quoted.replace("\\", "\\\\")
        database.sql(f"CREATE USER 'odd user'@'%' IDENTIFIED BY '{quoted}'")
    else:
        database.sql(f"CREATE ROLE \"odd user\" LOGIN PASSWORD '{quoted}'")
    try:
        template = database.url.replace(f"{OWNER}:{PASSWORD}@", "${user}:${password}@")
        peewee_database = make_database(template, secret_getter(user="odd user", password=password), retry_timeout=0)
        if database.server.dialect == "mysql":
            database.sql(f"GRANT ALL ON {database.name}.* TO 'odd user'@'%'")
        peewee_database.connect()
        peewee_database.close()
    finally:
        database.sql("DROP USER 'odd user'@'%'" if database.server.dialect == "mysql" else 'DROP ROLE "odd user"')


# Random connection strings

PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0$"), min_size=6, max_size=20).map(
    lambda text: f"Qz{text}zQ"
)
FRAGMENTS = st.sampled_from(
    [
        "postgresql",
        "postgresql+psycopg2",
        "mysql",
        "sqlite",
        "oracle",
        "://",
        ":",
        "/",
        "//",
        "@",
        "?",
        "#",
        "&",
        "=",
        ",",
        "scott",
        "127.0.0.1",
        "1",
        "99999",
        "[::1]",
        "db",
        "password",
        "sslmode",
        "options",
        "${a}",
        "$a",
        "$$",
        "%",
        "%41",
    ]
)


def output_for(connection_string: str) -> str:
    """Return all output about a connection string: repr, dump and traceback. The database need not exist."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        store = DBStore(connection_string=connection_string, retry_timeout=0)
        output = repr(store) + str(store.model_dump())
        try:
            store.create_run_log("run")
        except (ConfigurationError, peewee.PeeweeException) as error:
            output += "".join(traceback.format_exception(None, error, error.__traceback__))
        finally:
            store.close()
        return output


@settings(max_examples=300)
@given(
    scheme=st.sampled_from(["postgresql", "postgresql+psycopg", "mysql"]),
    password=PASSWORDS,
    rest=st.sampled_from(["@127.0.0.1:1/db", "@127.0.0.1:1/db?connect_timeout=1", "@127.0.0.1:x/db", "@/", "@", ""]),
    quoted=st.booleans(),
)
def test_random_password_is_never_shown(scheme: str, password: str, rest: str, quoted: bool) -> None:
    output = output_for(f"{scheme}://scott:{quote(password, safe='') if quoted else password}{rest}")
    for piece in re.findall(r"[^/?#@:\[\]%,&=\s]{4,}", password):
        assert piece not in output


@settings(max_examples=300)
@given(st.lists(FRAGMENTS | st.text(max_size=3), max_size=12).map("".join))
def test_random_string_is_a_database_or_a_clear_error(connection_string: str) -> None:
    output_for(connection_string)
