"""What a connection string may be, which database it names, and what of it is ever shown."""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, List
from urllib.parse import quote

import peewee
import pytest
from conftest import AnyDatabase, SqliteFile
from hypothesis import given, settings
from hypothesis import strategies as st
from magnus import context
from magnus.extensions.secrets.dotenv.implementation import DotEnvSecrets
from magnus.extensions.secrets.env_secrets.implementation import EnvSecretsManager
from magnus.secrets import DoNothingSecretManager
from playhouse.pool import PooledMySQLDatabase, PooledPostgresqlDatabase, PooledSqliteDatabase
from playhouse.postgres_ext import Psycopg3Database
from servers import OWNER, PASSWORD

from magnus_peewee_store import DBStore, create_tables
from magnus_peewee_store.connection import ConnectionStringError, make_database, mask
from magnus_peewee_store.db import MissingTableError


def secrets(**values: str) -> Any:
    return values.__getitem__


# SQLite files


def test_the_default_is_a_file_among_magnus_run_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore()
    store.create_run_log("run")
    store.close()
    assert [path.name for path in (tmp_path / ".run_log_store").iterdir()] == ["run_log.db"]


def test_a_relative_path_is_relative_to_where_the_run_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_file_is_named_as_it_is_written(tmp_path: Path, name: str) -> None:
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/{name}")
    store.create_run_log("run")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_database_in_memory_lasts_as_long_as_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = DBStore(connection_string="sqlite:///:memory:")
    store.create_run_log("run")
    assert store.get_run_log_by_id("run").run_id == "run"
    assert not list(tmp_path.iterdir())
    store.close()
    store.create_run_log("run")


def test_two_stores_on_two_databases_live_in_one_process(tmp_path: Path) -> None:
    stores = [DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in "ab"]
    for number, store in enumerate(stores):
        store.create_run_log("run", tag=str(number))
    assert [store.get_run_log_by_id("run").tag for store in stores] == ["0", "1"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite://logs/runs.db", "sqlite:///logs/runs.db"),
        ("sqlite://", "sqlite:///runs.db"),
        ("sqlite:///", "sqlite:///runs.db"),
    ],
)
def test_a_file_that_would_be_a_database_in_memory_is_refused(wrong: str, right: str) -> None:
    with pytest.raises(ConnectionStringError) as refusal:
        DBStore(connection_string=wrong).create_run_log("run")
    assert f" {right}," in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    ["", "runs.db", "oracle://u:pw@h/db", "sqlite:runs.db", "u:pw@h/db", "sqlite:///a#b.db", "sqlite:///a?b.db"],
)
def test_what_names_no_database_is_refused_with_what_would(wrong: str) -> None:
    with pytest.raises(ConnectionStringError, match="sqlite://|#") as refusal:
        make_database(wrong)
    assert "pw" not in str(refusal.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(peewee.OperationalError, match=f"Cannot connect to sqlite:///{tmp_path}/file/runs.db: "):
        DBStore(connection_string=f"sqlite:///{tmp_path}/file/runs.db").create_run_log("run")


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.write_text("not a database " * 100)
    store = DBStore(connection_string=f"sqlite:///{path}")
    for call in (lambda: store.get_run_log_by_id("run"), lambda: store.create_run_log("run")):
        with pytest.raises(peewee.PeeweeException, match="not a database"):
            call()
    assert path.read_text() == "not a database " * 100


def test_sqlite_is_set_for_a_crowd_and_for_power_cuts(sqlite_file: SqliteFile) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    store.create_run_log("run")
    database = store.table.database
    assert database.journal_mode == "wal"
    assert database.synchronous == 2  # FULL
    assert database.pragma("busy_timeout") == 60_000
    statements = []
    connection = database.connection()
    connection.set_trace_callback(statements.append)
    store.update_run_log_status("run", "SUCCESS")
    assert statements[0] == "BEGIN IMMEDIATE"


# The table


def test_create_tables_can_be_repeated_and_keeps_what_is_there(store: DBStore, database: Any) -> None:
    create_tables(database.url)
    store.create_run_log("run")
    create_tables(database.url)
    assert store.get_run_log_by_id("run").run_id == "run"
    indexes = store.table.database.get_indexes("db_log")
    assert (["run_id", "attribute_type", "attribute_key"], True) in [(each.columns, each.unique) for each in indexes]


def test_create_tables_adds_a_missing_index(database: AnyDatabase) -> None:
    create_tables(database.url)
    made = make_database(database.url)
    indexes = {(tuple(each.columns), each.unique) for each in made.get_indexes("db_log")}
    for index in made.get_indexes("db_log"):
        if "pk" not in index.columns:
            on = " ON db_log" if isinstance(made, peewee.MySQLDatabase) else ""
            database.sql(f"DROP INDEX {index.name}{on}")
    create_tables(database.url)
    assert {(tuple(each.columns), each.unique) for each in made.get_indexes("db_log")} == indexes
    made.close()


def test_the_columns_are_the_documented_ones(store: DBStore) -> None:
    store.create_run_log("run")
    columns = store.table.database.get_columns("db_log")
    assert [column.name for column in columns] == [
        *("pk", "run_id", "attribute_key", "attribute_type", "attribute_value", "created_at")
    ]
    assert not any(column.null for column in columns)


@contextlib.contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Go on as a user who may read what is in the folder, and not write it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    for each in (folder, *folder.parents):
        os.chmod(each, os.stat(each).st_mode | 0o555)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_where_the_table_may_not_be_made_the_error_says_what_to_run(tmp_path: Path, sqlite_file: SqliteFile) -> None:
    sqlite_file.path.touch()
    with as_nobody(tmp_path), pytest.raises(MissingTableError) as refusal:
        DBStore(connection_string=sqlite_file.url).get_run_log_by_id("run")
    assert "db.create_tables(" in str(refusal.value)


def test_a_file_that_may_only_be_read_is_read(tmp_path: Path, sqlite_file: SqliteFile) -> None:
    create_tables(sqlite_file.url)
    sqlite_file.sql("INSERT INTO db_log VALUES (1, 'run', 'run_log', 'RunLog', '{\"run_id\": \"run\"}', '2024-01-01')")
    sqlite_file.sql("PRAGMA journal_mode = delete")
    with as_nobody(tmp_path):
        store = DBStore(connection_string=sqlite_file.url)
        assert store.get_run_log_by_id("run").run_id == "run"
        with pytest.raises(peewee.OperationalError, match="readonly"):
            store.update_run_log_status("run", "SUCCESS")


# The configuration


def test_a_mistyped_key_is_named_and_its_value_is_not_told() -> None:
    store = DBStore(conection_string="sqlite:///swordfish.db")
    with pytest.raises(ConnectionStringError, match="conection_string.*connection_string") as refusal:
        store.get_run_log_by_id("run")
    assert "swordfish" not in str(refusal.value) + repr(store) + str(store.model_dump())


def test_a_connection_string_that_is_no_string_is_named() -> None:
    with pytest.raises(ConnectionStringError, match="'connection_string'.*string"):
        DBStore(connection_string=None).get_run_log_by_id("run")


def test_the_store_is_made_without_connecting(tmp_path: Path) -> None:
    DBStore(connection_string=f"sqlite:///{tmp_path}/runs.db")
    assert not list(tmp_path.iterdir())


# Placeholders


@pytest.mark.parametrize(
    ("template", "values", "database"),
    [
        ("sqlite:////data/${name}.db", {"name": "runs"}, "/data/runs.db"),
        ("sqlite:////data/$name", {"name": "runs.db"}, "/data/runs.db"),
        ("${dsn}", {"dsn": "sqlite:////data/runs.db"}, "/data/runs.db"),
        ("sqlite:////data/${unknown}/$$x.db", {}, "/data/${unknown}/$x.db"),
        ("sqlite:////data/${a}.db", {"a": "${b}", "b": "never"}, "/data/${b}.db"),
    ],
)
def test_placeholders_follow_string_template(template: str, values: Any, database: str) -> None:
    assert make_database(template, secrets(**values)).database == database


@pytest.mark.parametrize("password", ["tiger", "p@ss/w#rd?:%41[x]", "$5", "${x}", "a b", "\N{SNAKE}", "%"])
def test_a_secret_is_taken_literally_in_a_password(password: str) -> None:
    template = "postgresql://${user}:${password}@localhost:5432/mydatabase"
    made = make_database(template, secrets(user="sc@tt", password=password))
    assert [made.connect_params[name] for name in ("user", "password", "host", "port")] == [
        "sc@tt",
        password,
        "localhost",
        5432,
    ]
    assert made.database == "mydatabase"


def test_a_password_that_stands_in_the_string_is_part_of_the_url() -> None:
    made = make_database("postgresql://scott:p%40ss$word@localhost/mydatabase")
    assert made.connect_params["password"] == "p@ss$word"


def handler_with(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "run_context", SimpleNamespace(secrets_handler=handler))


def test_secrets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_FOLDER", str(tmp_path))
    handler_with(EnvSecretsManager(prefix="TEAM_"), monkeypatch)
    DBStore(connection_string="sqlite:///${FOLDER}/runs.db").create_run_log("run")
    assert (tmp_path / "runs.db").exists()


def test_secrets_come_from_a_dotenv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team.env").write_text(f"FOLDER={tmp_path}\n")
    handler_with(DotEnvSecrets(location=str(tmp_path / "team.env")), monkeypatch)
    DBStore(connection_string="sqlite:///${FOLDER}/runs.db").create_run_log("run")
    assert (tmp_path / "runs.db").exists()


@pytest.mark.parametrize("handler", [DoNothingSecretManager(), EnvSecretsManager()], ids=lambda each: each.service_name)
def test_a_placeholder_without_a_secret_stays_and_is_told_of(
    handler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handler_with(handler, monkeypatch)
    monkeypatch.setattr(logging.getLogger("magnus"), "propagate", True)
    DBStore(connection_string=f"sqlite:///{tmp_path}/${{NO_SUCH_SECRET}}.db").create_run_log("run")
    assert (tmp_path / "${NO_SUCH_SECRET}.db").exists()
    assert any("no secret is named NO_SUCH_SECRET" in record.getMessage() for record in caplog.records)


def test_a_connection_that_fails_names_the_placeholder_without_a_secret(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/file/${{FOLDER}}/runs.db")
    with pytest.raises(peewee.OperationalError, match="no secret is named FOLDER"):
        store.create_run_log("run")


# What is shown


@pytest.mark.parametrize(
    ("connection_string", "shown"),
    [
        ("sqlite:///runs.db", "sqlite:///runs.db"),
        ("sqlite:////a@b/${name}.db?x=1", "sqlite:////a@b/${name}.db"),
        ("${dsn}", "${dsn}"),
        ("postgresql://scott:${password}@h:5432/db", "postgresql://scott:${password}@h:5432/db"),
        ("postgresql://scott:tiger@h:5432/db?sslpassword=x", "postgresql://scott:***@h:5432/db"),
        ("postgresql://scott:ti${ge}r@h/db", "postgresql://scott:***@h/db"),
        ("postgresql://scott:ti@ger@h1:1,[::1]:2/db", "postgresql://scott:***@h1:1,[::1]:2/db"),
        ("postgresql://scott:ti/ger@h/db", "postgresql://***"),
        ("postgresql://scott:ti?ger@h/db", "postgresql://***"),
        ("postgresql://scott:ti#ger@h/db", "postgresql://***"),
        ("postgresql://h/db?password=ti@ger", "postgresql://***"),
        ("host=h password=tiger", "***"),
    ],
)
def test_no_part_of_a_password_is_shown(connection_string: str, shown: str) -> None:
    assert mask(connection_string) == shown
    assert DBStore(connection_string=connection_string).model_dump()["connection_string"] == shown


def test_a_store_is_represented_without_its_connection_string() -> None:
    store = DBStore(connection_string="postgresql://scott:tiger@localhost/db")
    assert "tiger" not in repr(store) + str(store) + store.model_dump_json() + str(store.model_dump())


@pytest.mark.parametrize("password", ["tiger", "${password}"])
def test_a_failing_connection_tells_no_password(password: str, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    made = make_database(f"postgresql://scott:{password}@127.0.0.1:1/db", secrets(password="tiger"), retry_seconds=0)
    with pytest.raises(peewee.OperationalError, match="Cannot connect to postgresql://scott:") as failure:
        made.connect()
    assert "tiger" not in str(failure.value) + repr(failure.value)
    assert failure.value.__suppress_context__


def test_the_module_is_importable_without_a_server_driver() -> None:
    subprocess.run([sys.executable, "-c", "import magnus_peewee_store"], check=True)


# Schemes and drivers


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("sqlite+pysqlite", peewee.SqliteDatabase),
        ("sqlite+pool", PooledSqliteDatabase),
        ("postgresql", peewee.PostgresqlDatabase),
        ("postgres", peewee.PostgresqlDatabase),
        ("postgresql+pool", PooledPostgresqlDatabase),
        ("postgresql+psycopg2", peewee.PostgresqlDatabase),
        ("postgresql+psycopg", Psycopg3Database),
        ("psycopg3", Psycopg3Database),
        ("mysql", peewee.MySQLDatabase),
        ("mysql+pool", PooledMySQLDatabase),
        ("mysql+pymysql", peewee.MySQLDatabase),
        ("mysql+mysqldb", peewee.MySQLDatabase),
        ("mariadb", peewee.MySQLDatabase),
        ("mariadb+pymysql", peewee.MySQLDatabase),
    ],
)
def test_playhouses_schemes_are_known_and_sqlalchemys(scheme: str, kind: type) -> None:
    made = make_database(f"{scheme}:///db" if scheme.startswith("sqlite") else f"{scheme}://scott:tiger@h/db")
    assert isinstance(made, kind)
    assert made.connect_params.get("password", "tiger") == "tiger"


def test_an_unknown_scheme_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConnectionStringError, match=r"mysql\+pymysql://.*postgresql://.*sqlite://"):
        make_database("oracle://scott:tiger@h/db")


@pytest.mark.parametrize(
    ("scheme", "drivers", "extra"),
    [
        ("postgresql", ["psycopg", "psycopg2"], "postgres"),
        ("psycopg3", ["psycopg", "psycopg2"], "postgres"),
        ("mysql", ["pymysql", "MySQLdb"], "mysql"),
    ],
)
def test_a_missing_driver_is_answered_with_the_extra_that_brings_it(
    scheme: str, drivers: List[str], extra: str
) -> None:
    script = f"""
import sys
sys.modules.update(dict.fromkeys({drivers}))  # which makes an import fail
from magnus_peewee_store import DBStore
DBStore(connection_string="{scheme}://scott:tiger@127.0.0.1:1/db").get_run_log_by_id("run")
"""
    process = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, timeout=50)
    assert f"pip install 'magnus-peewee-store[{extra}]'" in process.stderr
    assert "tiger" not in process.stderr


def test_options_and_several_hosts_reach_libpq() -> None:
    made = make_database(
        "postgresql://scott:${password}@h1:5432,[::1],h3/db"
        "?target_session_attrs=read-write&sslmode=require&options=-csearch_path%3Dteam_a",
        secrets(password="tiger"),
    )
    told = {name: made.connect_params[name] for name in ("host", "port", "target_session_attrs", "sslmode", "options")}
    assert told == {
        "host": "h1,::1,h3",
        "port": "5432,,",
        "target_session_attrs": "read-write",
        "sslmode": "require",
        "options": "-csearch_path=team_a",
    }


@pytest.mark.parametrize("password", ["012345", "true", "1.50", "None"])
@pytest.mark.parametrize("name", ["password", "passwd"])
def test_a_password_among_the_options_is_text_whatever_it_looks_like(name: str, password: str) -> None:
    made = make_database(f"mysql://scott@127.0.0.1:1/db?{name}={password}", retry_seconds=0)
    assert made.connect_params["password"] == password
    with pytest.raises(peewee.OperationalError, match="Cannot connect"):
        made.connect()


def test_of_a_connection_string_that_is_one_secret_no_part_is_told() -> None:
    made = make_database("${dsn}", secrets(dsn="postgresql://scott:tiger@127.0.0.1:1/db?sslmode=swordfish"))
    with pytest.raises(peewee.OperationalError, match=r"Cannot connect to \$\{dsn\}") as failure:
        made.connect()
    assert not [part for part in ("scott", "tiger", "127.0.0.1", "swordfish") if part in str(failure.value)]


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_a_table_is_in_the_schema_that_the_options_say(scheme: str, server_databases: Any) -> None:
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


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg", "mysql+pymysql"])
def test_a_server_is_reached_through_its_unix_socket(scheme: str, server_databases: Any) -> None:
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
def test_a_server_takes_a_secret_of_any_characters(scheme: str, password: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    quoted = password.replace("'", "''")
    if database.server.dialect == "mysql":
        quoted = quoted.replace("\\", "\\\\")
        database.sql(f"CREATE USER 'odd user'@'%' IDENTIFIED BY '{quoted}'")
    else:
        database.sql(f"CREATE ROLE \"odd user\" LOGIN PASSWORD '{quoted}'")
    try:
        template = database.url.replace(f"{OWNER}:{PASSWORD}@", "${user}:${password}@")
        made = make_database(template, secrets(user="odd user", password=password), retry_seconds=0)
        if database.server.dialect == "mysql":
            database.sql(f"GRANT ALL ON {database.name}.* TO 'odd user'@'%'")
        made.connect()
        made.close()
    finally:
        database.sql("DROP USER 'odd user'@'%'" if database.server.dialect == "mysql" else 'DROP ROLE "odd user"')


# Any string at all

PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0$"), min_size=6, max_size=20).map(
    lambda text: f"Qz{text}zQ"
)
PIECES = st.sampled_from(
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


def told_of(connection_string: str) -> str:
    """All that is shown of a connection string by trying to use it, on the way to a database that is not there."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        store = DBStore(connection_string=connection_string, retry_timeout=0)
        told = repr(store) + str(store.model_dump())
        try:
            store.create_run_log("run")
        except (ConnectionStringError, peewee.PeeweeException) as error:
            told += "".join(traceback.format_exception(None, error, error.__traceback__))
        finally:
            store.close()
        return told


@settings(deadline=None, max_examples=300)
@given(
    scheme=st.sampled_from(["postgresql", "postgresql+psycopg", "mysql"]),
    password=PASSWORDS,
    rest=st.sampled_from(["@127.0.0.1:1/db", "@127.0.0.1:1/db?connect_timeout=1", "@127.0.0.1:x/db", "@/", "@", ""]),
    quoted=st.booleans(),
)
def test_no_password_is_told_whatever_it_is_made_of(scheme: str, password: str, rest: str, quoted: bool) -> None:
    told = told_of(f"{scheme}://scott:{quote(password, safe='') if quoted else password}{rest}")
    for piece in re.findall(r"[^/?#@:\[\]%,&=\s]{4,}", password):
        assert piece not in told


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_any_string_is_a_database_or_one_clear_error(connection_string: str) -> None:
    told_of(connection_string)
