"""Roles without privileges, tables and views of other software, missing schemas, and damaged files."""

import contextlib
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Set

import pytest
from conftest import AnyDatabase, SqliteFile, check, new_store
from magnus import context
from magnus.datastore import StepLog
from roles import Role
from servers import OWNER, Database
from test_faults import until

from magnus_peewee_store import (
    DBStore,
    InvalidValueError,
    MissingTableError,
    PrivilegeError,
    WrongTableError,
    create_tables,
    open_store,
    runs,
)
from magnus_peewee_store.db.schema import schema_of

# Names that some collations treat as equal, and names with the same beginning.
SIMILAR_NAMES = ["a", "A", "a ", "\u00e4", "ss", "\u00df", "parameter 1", "parameter 2"]


def is_mariadb(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.scheme.startswith("mysql")


def is_postgresql(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.scheme.startswith("postgresql")


# Privileges


@pytest.fixture
def role(database: AnyDatabase) -> Iterator[Role]:
    """A role that has no privileges, in a database with the table and a run."""
    if not isinstance(database, Database):
        pytest.skip("SQLite has no roles")
    create_tables(database.url)
    with new_store(database.url) as store:
        store.create_run_log("run")
    role = Role(database)
    yield role
    role.drop()


def read_run(store: DBStore) -> None:
    store.get_run_log_by_id("run")


def set_parameters(store: DBStore) -> None:
    store.set_parameters("run", {"x": 1})


def set_status(store: DBStore) -> None:
    store.update_run_log_status("run", "SUCCESS")


def delete_run(store: DBStore) -> None:
    list(runs.delete_runs(store, ["run"]))


@pytest.mark.parametrize(
    ("granted", "call", "lacking"),
    [
        ("", read_run, {"SELECT"}),
        ("INSERT, UPDATE", read_run, {"SELECT"}),
        ("SELECT", set_parameters, {"INSERT", "UPDATE"}),
        ("SELECT, INSERT", set_status, {"UPDATE"}),
        ("SELECT, UPDATE", set_parameters, {"INSERT"}),
        ("SELECT, INSERT, UPDATE", delete_run, {"DELETE"}),
    ],
)
def test_privilege_error_contains_the_grant_to_run(
    role: Role, granted: str, call: Callable[[DBStore], None], lacking: Set[str]
) -> None:
    if granted:
        role.grant(f"{granted} ON db_log")
    with new_store(role.url) as store:
        with pytest.raises(PrivilegeError, match=r"\*\*\*@127\.0\.0\.1") as exc_info:
            call(store)
        message = str(exc_info.value)
        grant = message.partition("Have an administrator run: ")[2]
        assert "tiger" not in message
        assert all(privilege in grant for privilege in lacking)
        for account in role.accounts:  # MariaDB cannot tell which account it is before the role may connect.
            role.database.sql(f"{grant.partition(' TO ')[0]} TO {account}")
        call(store)


def test_heartbeat_needs_no_more_than_select_insert_and_update(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.grant("SELECT, INSERT, UPDATE ON db_log")
    if is_postgresql(role.database):
        role.grant("USAGE ON SEQUENCE id_seq")
    monkeypatch.setattr(context, "run_context", SimpleNamespace(run_id="run", secrets_handler=None))
    with contextlib.closing(DBStore(connection_string=role.url, retry_timeout=0, heartbeat=0.05)) as store:
        store.add_step_log(StepLog(name="a", internal_name="a"), "run")
        rows = store.table.read("run", ("Heartbeat",))
        assert len(rows) == 1
        until(lambda: store.table.read("run", ("Heartbeat",)) != rows)


def test_privilege_error_names_the_table_to_a_role_that_cannot_see_it(role: Role) -> None:
    if is_mariadb(role.database):
        role.database.sql("CREATE TABLE other (x INTEGER)")
        role.grant("SELECT ON other")
    try:
        with new_store(role.url) as store, pytest.raises(PrivilegeError, match=r"SELECT.* db_log "):
            store.create_run_log("other run")
    finally:
        role.database.sql("DROP TABLE IF EXISTS other")


def test_create_tables_on_complete_table_needs_no_privileges(role: Role) -> None:
    role.grant("SELECT ON db_log")
    assert create_tables(role.url) == []


def test_create_tables_without_privileges_raises_with_the_grant(role: Role) -> None:
    role.grant("SELECT, INSERT, UPDATE ON db_log")
    with new_store(role.database.url) as store:
        indexes = store.database.retry(store.database.get_indexes, "db_log")
        [name] = [index.name for index in indexes if index.columns == ["run_id", "created_at"]]
        store.database.retry(schema_of(store.database).drop_index, name)
    with pytest.raises(PrivilegeError, match="Have an administrator run: GRANT"):
        create_tables(role.url)


def test_create_tables_on_complete_read_only_file_succeeds(sqlite_file: SqliteFile) -> None:
    create_tables(sqlite_file.url)
    sqlite_file.sql("PRAGMA journal_mode = delete")
    sqlite_file.path.chmod(0o444)
    sqlite_file.path.parent.chmod(0o555)
    try:
        assert create_tables(sqlite_file.url) == []
    finally:
        sqlite_file.path.parent.chmod(0o755)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_privilege_error_names_the_schema(scheme: str, server_databases: Any) -> None:
    database = server_databases(scheme)
    role = Role(database)
    database.sql("CREATE SCHEMA team_a")
    try:
        for option in ("?options=-csearch_path%3Dteam_a", "?schema=team_a"):
            match = f"GRANT USAGE, CREATE ON SCHEMA team_a TO {role.name}"
            with new_store(role.url + option) as store, pytest.raises(PrivilegeError, match=match):
                store.create_run_log("run")
    finally:
        database.sql("DROP SCHEMA team_a CASCADE")
        role.drop()


# Other tables


@pytest.fixture(params=["table", "view"])
def foreign_table(request: pytest.FixtureRequest, database: AnyDatabase) -> Iterator[str]:
    """Create a table or a view `db_log` of other software; return its kind."""
    database.sql("CREATE TABLE other (pk INTEGER, created_at TIMESTAMP)")
    if request.param == "view":
        database.sql("CREATE VIEW db_log AS SELECT * FROM other")
    else:
        database.sql("CREATE TABLE db_log (pk INTEGER, created_at TIMESTAMP)")
    if is_postgresql(database):
        database.sql(f"GRANT ALL ON db_log TO {OWNER}")
    yield request.param
    if request.param == "view":
        database.sql("DROP VIEW db_log")
    database.sql("DROP TABLE other")


def test_table_of_other_software_raises_and_stays_unchanged(database: AnyDatabase, foreign_table: str) -> None:
    match = "db_log .* is a view" if foreign_table == "view" else "it lacks the columns run_id, .*attribute_value"
    with new_store(database.url) as store:
        for call in (lambda: store.get_run_log_by_id("run"), lambda: store.create_run_log("run")):
            with pytest.raises(WrongTableError, match=match):
                call()
    for function in (create_tables, check):
        with pytest.raises(WrongTableError, match=match):
            function(database.url)
    assert database.sql("SELECT * FROM db_log") == []
    with new_store(database.url) as store:
        columns = [column.name for column in store.database.retry(store.database.get_columns, "db_log")]
    assert columns == ["pk", "created_at"]


@pytest.mark.parametrize("option", ["?options=-csearch_path%3Dno_such_team", "?schema=no_such_team"])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+psycopg"])
def test_missing_schema_error_contains_create_schema(scheme: str, option: str, server_databases: Any) -> None:
    url = server_databases(scheme).url + option
    match = f"Have an administrator run: CREATE SCHEMA no_such_team AUTHORIZATION {OWNER}"
    with new_store(url) as store, pytest.raises(MissingTableError, match=match):
        store.create_run_log("run")
    with pytest.raises(MissingTableError, match=match):
        open_store(connection_string=url)


# Values and names


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_value_nested_too_deep_is_named(store: DBStore) -> None:
    deep = nested(100_000)
    store.create_run_log("run")
    with pytest.raises(InvalidValueError, match="Parameter 'loss' .*nested too deep"):
        store.set_parameters("run", {"x": 1, "loss": deep})
    with pytest.raises(InvalidValueError, match="Step 'train' .*nested too deep"):
        store.add_step_log(StepLog(name="train", internal_name="train", user_defined_metrics={"m": deep}), "run")
    with pytest.raises(InvalidValueError, match="RunLog 'run_log' .*nested too deep"):
        store.set_run_config("run", {"x": deep})
    run_log = store.get_run_log_by_id("run", full=True)
    assert (run_log.parameters, run_log.steps, run_log.run_config, run_log.status) == ({}, {}, {}, "CREATED")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", 5, b"run"])
def test_run_id_and_name_that_are_not_text_are_named(store: DBStore, text: Any) -> None:
    store.create_run_log("run")
    calls: List[Callable[[], Any]] = [
        lambda: store.get_run_log_by_id(text),
        lambda: store.get_parameters(text),
        lambda: store.set_parameters(text, {"x": 1}),
        lambda: store.update_run_log_status(text, "SUCCESS"),
        lambda: store.set_parameters("run", {text: 1}),
        lambda: store.set_parameters("run", {text: 1, "x": 2}),
        lambda: store.get_step_log(text, "run"),
        lambda: store.get_branch_log(text, "run"),
    ]
    if isinstance(text, str):  # Otherwise magnus' own class refuses it.
        calls.append(lambda: store.create_run_log(text))
    for call in calls:
        with pytest.raises(InvalidValueError) as exc_info:
            call()
        assert repr(text) in str(exc_info.value)
    run_log = store.get_run_log_by_id("run", full=True)
    assert (run_log.parameters, run_log.steps, run_log.run_config, run_log.status) == ({}, {}, {}, "CREATED")
