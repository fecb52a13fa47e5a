"""Indexes that confuse names, and the width of pk."""

import contextlib
from typing import Any, List

import peewee
import pytest
from conftest import AnyDatabase, Project, SqliteFile, check, new_store
from magnus.datastore import RunLog, StepLog
from servers import Database

from magnus_peewee_store import DBStore, create_tables, runs
from magnus_peewee_store.db.whole_runs import RunTable

# Names that some collations treat as equal, and names with the same beginning.
SIMILAR_NAMES = ["a", "A", "a ", "\u00e4", "ss", "\u00df", "parameter 1", "parameter 2"]
COLUMNS = "attribute_key VARCHAR(200){0}, attribute_type VARCHAR(20){0}, attribute_value TEXT, created_at "
INDEX = "CREATE UNIQUE INDEX by_hand ON db_log "
KEY = "(run_id, attribute_type, attribute_key)"
# Tables that somebody may have made by hand: the definition, and the index.
CONFUSING = {
    "sqlite": [
        (f"pk INTEGER PRIMARY KEY, run_id TEXT, {COLUMNS.format('')} DATETIME", f"{INDEX}{part}")
        for part in (
            "(run_id, attribute_type, attribute_key COLLATE NOCASE)",
            "(run_id, attribute_type, attribute_key COLLATE RTRIM)",
            "(run_id, attribute_key)",
        )
    ]
    + [
        (f"pk INTEGER PRIMARY KEY, run_id TEXT, {COLUMNS.format(' COLLATE NOCASE')} DATETIME{constraint}", index)
        for constraint, index in (("", INDEX + KEY), (f", UNIQUE {KEY}", ""))
    ],
    "postgresql": [
        (f"pk SERIAL PRIMARY KEY, run_id VARCHAR(200){collation}, {COLUMNS.format(collation)} TIMESTAMP", index)
        for collation, index in (
            (" COLLATE loose", INDEX + KEY),
            ("", f"{INDEX}(run_id, attribute_type, attribute_key COLLATE loose)"),
            ("", f"{INDEX}{KEY} WHERE attribute_type = 'Step'"),
            ("", f"ALTER TABLE db_log ADD CONSTRAINT by_hand UNIQUE {KEY} DEFERRABLE"),
        )
    ],
    "mariadb": [
        (f"pk INTEGER AUTO_INCREMENT PRIMARY KEY, run_id VARCHAR(200), {COLUMNS.format('')} DATETIME(6)", index)
        for index in (
            INDEX + KEY,
            f"{INDEX}(run_id, attribute_type, attribute_key(5))",
            f"{INDEX}(run_id, attribute_key)",
        )
    ]
    + [
        (
            f"pk INTEGER AUTO_INCREMENT PRIMARY KEY, run_id TEXT, {COLUMNS.format(' COLLATE utf8mb4_bin')} DATETIME(6)",
            index,
        )
        for index in (INDEX + KEY, f"{INDEX}(run_id(20), attribute_type, attribute_key)")
    ],
}


def kind_of(database: AnyDatabase) -> str:
    return database.server.kind if isinstance(database, Database) else "sqlite"


def has_confusing_name(database: AnyDatabase) -> bool:
    """Return True if there is an index `by_hand` without a condition. An index with a condition does no harm."""
    with new_store(database.url) as store:
        store.database.connect()
        indexes = store.database.get_indexes("db_log")
    return any(index.name == "by_hand" and "WHERE" not in (index.sql or "") for index in indexes)


@pytest.fixture(params=range(5))
def confusing_database(request: pytest.FixtureRequest, database: AnyDatabase) -> AnyDatabase:
    """A table with a unique index that treats different names as equal, or does not cover all rows."""
    definitions = CONFUSING[kind_of(database)]
    if request.param >= len(definitions):
        pytest.skip("this database has fewer such indexes")
    definition, index = definitions[request.param]
    if kind_of(database) == "postgresql":
        database.sql(
            "CREATE COLLATION IF NOT EXISTS loose (provider=icu, locale='und-u-ks-level1', deterministic=false)"
        )
    database.sql(f"CREATE TABLE db_log ({definition})")
    if index:
        database.sql(index)
    if kind_of(database) == "postgresql":
        database.sql("ALTER TABLE db_log OWNER TO scott")
    return database


def write_similar_names(store: DBStore, run_id: str) -> None:
    store.create_run_log(run_id)
    for name in SIMILAR_NAMES:
        store.set_parameters(run_id, {name: name})


def test_index_that_confuses_names_loses_nothing_silently(confusing_database: AnyDatabase) -> None:
    with new_store(confusing_database.url) as store:
        store.create_run_log("run")
        written = {}
        for name in SIMILAR_NAMES:
            with contextlib.suppress(peewee.IntegrityError):
                store.set_parameters("run", {name: name})
                written[name] = name
        assert len(written) >= 4
        assert store.get_parameters("run") == written


def test_create_tables_replaces_index_that_confuses_names(confusing_database: AnyDatabase) -> None:
    with new_store(confusing_database.url) as store:
        store.create_run_log("old run")
        store.set_parameters("old run", {"x": 1})
    missing = check(confusing_database.url).missing
    assert any("'by_hand', which" in part for part in missing) == has_confusing_name(confusing_database)
    assert missing
    assert create_tables(confusing_database.url) == missing
    assert check(confusing_database.url).is_healthy
    assert create_tables(confusing_database.url) == []
    with new_store(confusing_database.url) as store:
        assert store.get_parameters("old run") == {"x": 1}
        for run_id in ("run", "RUN"):
            write_similar_names(store, run_id)
        assert store.get_parameters("run") == {name: name for name in SIMILAR_NAMES}
        assert type(store.table) is RunTable


def test_name_of_an_index_is_quoted(database: AnyDatabase) -> None:
    create_tables(database.url)
    kind = kind_of(database)
    name = '`my-index; --"`' if kind == "mariadb" else '"my-index; --""`"'
    database.sql(f"CREATE UNIQUE INDEX {name} ON db_log (run_id, attribute_type)")
    [replaced] = create_tables(database.url)
    assert "my-index" in replaced and check(database.url).is_healthy


def test_narrow_index_beside_the_right_one_loses_nothing_silently(database: AnyDatabase) -> None:
    create_tables(database.url)
    database.sql("CREATE UNIQUE INDEX by_hand ON db_log (run_id, attribute_key)")
    with new_store(database.url) as store:
        store.create_run_log("run")
        store.set_parameters("run", {"x": 1})
        with pytest.raises(peewee.IntegrityError):
            store.add_step_log(StepLog(name="x", internal_name="x"), "run")
        assert store.get_parameters("run") == {"x": 1}
    if kind_of(database) == "postgresql":
        database.sql("ALTER TABLE db_log OWNER TO scott")
    expected = ["support for all names instead of the index 'by_hand', which covers only run_id, attribute_key"]
    assert check(database.url).missing == expected
    assert create_tables(database.url) == expected
    with new_store(database.url) as store:
        store.add_step_log(StepLog(name="x", internal_name="x"), "run")
        assert store.get_parameters("run") == {"x": 1} and store.get_step_log("x", "run").name == "x"


def test_check_names_the_index_that_confuses_names(sqlite_file: SqliteFile) -> None:
    definition, index = CONFUSING["sqlite"][0]
    sqlite_file.sql(f"CREATE TABLE db_log ({definition})")
    sqlite_file.sql(index)
    [unique, *_] = check(sqlite_file.url).missing
    assert unique == (
        "the unique index over run_id, attribute_type, attribute_key instead of the index 'by_hand', "
        "which does not compare names byte for byte"
    )


# The width of pk


def pk_type(database: AnyDatabase) -> str:
    with new_store(database.url) as store:
        store.database.connect()
        return {column.name: column.data_type.lower() for column in store.database.get_columns("db_log")}["pk"]


def test_pk_of_new_table_has_64_bits(database: AnyDatabase) -> None:
    create_tables(database.url)
    assert pk_type(database) == ("integer" if isinstance(database, SqliteFile) else "bigint")


def narrow_pk(database: AnyDatabase) -> None:
    if kind_of(database) == "postgresql":
        database.sql("ALTER TABLE db_log ALTER pk TYPE INTEGER")
        database.sql("ALTER SEQUENCE id_seq AS INTEGER")
    else:
        database.sql("ALTER TABLE db_log MODIFY pk INTEGER NOT NULL AUTO_INCREMENT")


@pytest.fixture
def server_database(database: AnyDatabase) -> Database:
    if not isinstance(database, Database):
        pytest.skip("SQLite's integers have 64 bits")
    return database


def use_up(database: Database, pk: int) -> None:
    database.sql("UPDATE db_log SET pk = ?", pk)
    if database.server.kind == "postgresql":
        database.sql("SELECT setval('id_seq', ?)", pk)


def test_check_says_how_to_widen_a_half_used_pk(server_database: Database, project: Project) -> None:
    create_tables(server_database.url)
    narrow_pk(server_database)
    with new_store(server_database.url) as store:
        store.create_run_log("run")
    use_up(server_database, 2**30)
    assert check(server_database.url).is_healthy
    use_up(server_database, 2**31 - 1)

    statements = check(server_database.url).widen_pk
    assert statements in project.magnus("db", "check", "--connection-string", server_database.url, fails=True)
    with new_store(server_database.url) as store, pytest.raises(peewee.PeeweeException):
        store.create_run_log("other run")
    for statement in statements.split(";")[:-1]:
        server_database.sql(statement)
    with new_store(server_database.url) as store:
        store.create_run_log("other run")
    assert check(server_database.url).is_healthy and pk_type(server_database) == "bigint"


def all_pks(database: AnyDatabase) -> List[Any]:
    return database.sql("SELECT pk FROM db_log")


def test_sqlite_pk_is_never_too_narrow(sqlite_file: SqliteFile) -> None:
    create_tables(sqlite_file.url)
    with new_store(sqlite_file.url) as store:
        store.create_run_log("run")
        sqlite_file.sql("UPDATE db_log SET pk = ?", 2**40)
        store.create_run_log("other run")
    assert sorted(all_pks(sqlite_file)) == [(2**40,), (2**40 + 1,)]
    assert check(sqlite_file.url).is_healthy


def test_views_indexes_and_triggers_survive_create_tables(sqlite_file: SqliteFile) -> None:
    sqlite_file.sql(
        f"CREATE TABLE db_log (pk INTEGER PRIMARY KEY, run_id TEXT, {COLUMNS.format(' COLLATE NOCASE')} DATETIME)"
    )
    sqlite_file.sql("CREATE INDEX by_value ON db_log (attribute_value)")
    sqlite_file.sql("CREATE VIEW own AS SELECT run_id FROM db_log")
    sqlite_file.sql("CREATE TABLE audit (run_id TEXT)")
    sqlite_file.sql(
        "CREATE TRIGGER audited AFTER UPDATE ON db_log BEGIN INSERT INTO audit SELECT run_id FROM db_log LIMIT 1; END"
    )
    with new_store(sqlite_file.url) as store:
        store.put_run_log(RunLog(run_id="run", parameters={"lr": 0.1}))
        runs.create_views(store)
    create_tables(sqlite_file.url)
    with new_store(sqlite_file.url) as store:
        store.update_run_log_status("run", "SUCCESS")
    assert sqlite_file.sql("SELECT run_id, value FROM run_params") == [("run", 0.1)]
    assert sqlite_file.sql("SELECT DISTINCT run_id FROM own") == [("run",)]
    assert sqlite_file.sql("SELECT * FROM audit") == [("run",)]
    assert sqlite_file.sql("SELECT tbl_name FROM sqlite_master WHERE name = 'by_value'") == [("db_log",)]
    assert sqlite_file.sql("SELECT name FROM sqlite_master WHERE name LIKE '%incomplete%'") == []
