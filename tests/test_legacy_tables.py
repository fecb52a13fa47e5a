"""Legacy tables (created by the older extension), roles with few privileges, and `create_tables` on both."""

import contextlib
import datetime
import json
import re
import uuid
from typing import Any, Callable, Iterator, List, Tuple

import peewee
import pytest
from concurrency import run_in_processes
from conftest import AnyDatabase, SqliteFile
from logs import step
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog
from servers import Database

from magnus_peewee_store import DBStore, InvalidValueError, MissingTableError, WrongTableError, db, runs
from magnus_peewee_store.db import table

PROCESS_COUNT = 6
RUN_IDS = [f"run {number:02}" for number in range(25)]
# A collation may treat these as equal: they differ in case, accent, trailing space or expansion (ss, ß).
SIMILAR_NAMES = ["x", "xy", "a", "A", "a ", "e", "\u00e9", "ss", "\u00df"]
# One name is outside latin1, the other outside MariaDB's three-byte `utf8`.
NON_LATIN1_NAMES = ["\u043a\u043b\u044e\u0447", "\U0001f511"]


def drop_table(database: AnyDatabase) -> None:
    database.sql("DROP TABLE IF EXISTS db_log")
    if has_sequences(database):
        database.sql("DROP SEQUENCE IF EXISTS id_seq")


def create_legacy_table(database: AnyDatabase) -> None:
    # Imported here because each child process imports this file.
    from sqlalchemy import Column, DateTime, Integer, Sequence, Text, create_engine
    from sqlalchemy.orm import declarative_base

    Base: Any = declarative_base()  # noqa: N806

    class DBLog(Base):
        __tablename__ = "db_log"
        pk = Column(Integer, Sequence("id_seq"), primary_key=True)
        run_id = Column(Text)
        attribute_key = Column(Text)  # run_log, step_internal_name, parameter_key etc
        attribute_type = Column(Text)  # RunLog, Step, Branch, Parameter
        attribute_value = Column(Text)  # The JSON string
        created_at = Column(DateTime, default=datetime.datetime.utcnow)

    # SQLAlchemy creates MariaDB's sequence only for a mariadb:// URL.
    engine = create_engine(database.url.replace("mysql+", "mariadb+") if has_sequences(database) else database.url)
    Base.metadata.create_all(engine)
    engine.dispose()


@pytest.fixture
def legacy_database(database: AnyDatabase) -> Iterator[AnyDatabase]:
    """A database with a legacy table."""
    create_legacy_table(database)
    yield database
    drop_table(database)


@pytest.fixture(params=["legacy", "legacy, completed"])
def any_legacy_database(request: pytest.FixtureRequest, legacy_database: AnyDatabase) -> AnyDatabase:
    if request.param == "legacy, completed":
        db.create_tables(legacy_database.url)
    return legacy_database


@pytest.fixture
def legacy_store(legacy_database: AnyDatabase) -> Iterator[DBStore]:
    """A store on a legacy table."""
    store = DBStore(connection_string=legacy_database.url)
    yield store
    store.close()


def insert_legacy_row(
    database: AnyDatabase, attribute_type: str, attribute_key: str, value: Any, created_at: str, run_id: str = "run"
) -> None:
    """Insert a row as the older extension does. It never updates a row."""
    pk = "NULL"
    if has_sequences(database):
        pk = "NEXT VALUE FOR id_seq" if is_mariadb(database) else "nextval('id_seq')"
    database.sql(
        "INSERT INTO db_log (pk, run_id, attribute_type, attribute_key, attribute_value, created_at) "
        f"VALUES ({pk}, ?, ?, ?, ?, ?)",
        *(run_id, attribute_type, attribute_key, json.dumps(value), created_at),
    )


def has_sequences(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.server.has_sequences


def is_mariadb(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.scheme.startswith("mysql")


def rows_of(database: AnyDatabase) -> List[Tuple[Any, ...]]:
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    return database.sql(f"SELECT {columns} FROM db_log ORDER BY pk")


def definition_of(database: AnyDatabase) -> Any:
    """Return the complete definition of the table and its indexes."""
    if isinstance(database, SqliteFile):
        return database.sql("SELECT type, name, sql FROM sqlite_master ORDER BY name")
    if is_mariadb(database):
        return database.sql("SHOW CREATE TABLE db_log")
    return (
        database.sql(
            "SELECT column_name, data_type, column_default, is_nullable, is_identity FROM information_schema.columns "
            "WHERE table_name = 'db_log' ORDER BY ordinal_position"
        ),
        database.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'db_log' ORDER BY indexname"),
    )


# Concurrent processes


def create_run(number: int, url: str) -> bool:
    store = DBStore(connection_string=url)
    try:
        store.create_run_log("run")
        return True
    except exceptions.RunLogExistsError:
        return False
    finally:
        store.close()


def create_same_runs(number: int, url: str) -> List[str]:
    """Create many runs, because processes that start together soon drift apart."""
    store = DBStore(connection_string=url)
    created = []
    for run_id in RUN_IDS:
        with contextlib.suppress(exceptions.RunLogExistsError):
            store.create_run_log(run_id, tag=str(number))
            created.append(run_id)
    return created


def test_concurrent_create_run_log_succeeds_once(legacy_database: AnyDatabase) -> None:
    created = run_in_processes(PROCESS_COUNT, create_same_runs, legacy_database.url)
    assert sorted(run_id for each in created for run_id in each) == RUN_IDS
    assert sorted(row[0] for row in rows_of(legacy_database)) == RUN_IDS


def put_same_runs(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    for run_id in RUN_IDS:
        store.put_run_log(RunLog(run_id=run_id, tag=str(number), parameters={"x": number}))


def test_concurrent_put_run_log_is_atomic(legacy_database: AnyDatabase) -> None:
    run_in_processes(PROCESS_COUNT, put_same_runs, legacy_database.url)
    store = DBStore(connection_string=legacy_database.url)
    run_logs = [store.get_run_log_by_id(run_id) for run_id in RUN_IDS]
    assert all(run_log.tag == str(run_log.parameters["x"]) for run_log in run_logs)
    assert sorted(row[:2] for row in rows_of(legacy_database)) == [
        (run_id, attribute_type) for run_id in RUN_IDS for attribute_type in ("Parameter", "RunLog")
    ]
    store.close()


def write_one_step(number: int, url: str) -> None:
    DBStore(connection_string=url).add_step_log(step("s", message=str(number)), "run")


def test_concurrent_writes_of_one_key_make_one_row(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    legacy_store.create_run_log("run")
    run_in_processes(PROCESS_COUNT, write_one_step, legacy_database.url)
    assert [row[1:3] for row in rows_of(legacy_database)] == [("RunLog", "run_log"), ("Step", "s")]
    assert legacy_store.get_step_log("s", "run").message in map(str, range(PROCESS_COUNT))


def write_branch(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    store.add_branch_log(BranchLog(internal_name=f"map.{number}"), "run")
    for attempt in range(5):
        store.add_step_log(step(f"map.{number}.{attempt}"), "run")
        store.set_parameters("run", {"shared": number, f"own {number} {attempt}": attempt})
        store.set_run_config("run", {f"seen by {number}": attempt})


def test_concurrent_writers_lose_nothing(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    legacy_store.create_run_log("run")
    legacy_store.add_step_log(step("map", step_type="map"), "run")
    run_in_processes(PROCESS_COUNT, write_branch, legacy_database.url)
    run_log = legacy_store.get_run_log_by_id("run", full=True)
    assert {name: list(branch.steps) for name, branch in run_log.steps["map"].branches.items()} == {
        f"map.{number}": [f"map.{number}.{attempt}" for attempt in range(5)] for number in range(PROCESS_COUNT)
    }
    own = {f"own {number} {attempt}": attempt for number in range(PROCESS_COUNT) for attempt in range(5)}
    assert run_log.parameters == {**own, "shared": run_log.parameters["shared"]}
    assert run_log.run_config == {f"seen by {number}": 4 for number in range(PROCESS_COUNT)}
    assert len(rows_of(legacy_database)) == 2 + PROCESS_COUNT + PROCESS_COUNT * 5 * 2 + 1


def set_same_parameters(number: int, url: str) -> None:
    DBStore(connection_string=url).set_parameters("run", {f"p{each}": number for each in range(30)})


def test_concurrent_set_parameters_is_atomic(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    legacy_store.create_run_log("run")
    run_in_processes(PROCESS_COUNT, set_same_parameters, legacy_database.url)
    parameters = legacy_store.get_parameters("run")
    assert len(parameters) == 30 and len(set(parameters.values())) == 1


def create_own_runs(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    for each in range(5):
        store.create_run_log(f"run {number} {each}")


def test_concurrent_creation_of_different_runs_loses_none(legacy_database: AnyDatabase) -> None:
    run_in_processes(PROCESS_COUNT, create_own_runs, legacy_database.url)
    run_ids = [f"run {number} {each}" for number in range(PROCESS_COUNT) for each in range(5)]
    assert sorted(row[0] for row in rows_of(legacy_database)) == sorted(run_ids)


# Names and values


def test_similar_names_stay_distinct(any_legacy_database: AnyDatabase) -> None:
    store = DBStore(connection_string=any_legacy_database.url)
    for run_id in ("run", "Run", "run "):
        store.create_run_log(run_id)
        for each in (*SIMILAR_NAMES, *reversed(SIMILAR_NAMES)):
            store.set_parameters(run_id, {each: f"{each} of {run_id}"})
            store.add_step_log(step(each), run_id)
    for run_id in ("run", "Run", "run "):
        run_log = store.get_run_log_by_id(run_id, full=True)
        assert run_log.run_id == run_id
        assert run_log.parameters == {each: f"{each} of {run_id}" for each in SIMILAR_NAMES}
        assert list(run_log.steps) == SIMILAR_NAMES
        assert [store.get_step_log(each, run_id).internal_name for each in SIMILAR_NAMES] == SIMILAR_NAMES
    store.close()


def test_steps_keep_insertion_order(legacy_store: DBStore) -> None:
    legacy_store.create_run_log("run")
    names = [f"s{number}" for number in range(30)]
    for name in names:
        legacy_store.add_step_log(step(name), "run")
    for name in reversed(names):
        legacy_store.add_step_log(step(name, status="SUCCESS"), "run")
    assert list(legacy_store.get_run_log_by_id("run", full=True).steps) == names


@contextlib.contextmanager
def lenient_sql_mode(database: AnyDatabase) -> Iterator[None]:
    """Turn off strict mode, so that MariaDB truncates values. Old MariaDB and MySQL versions do so by default."""
    if not is_mariadb(database):
        yield
        return
    [(mode,)] = database.sql("SELECT @@GLOBAL.sql_mode")
    database.sql("SET GLOBAL sql_mode = ''")
    try:
        yield
    finally:
        database.sql("SET GLOBAL sql_mode = ?", mode)


def test_large_value_is_stored_or_raises(legacy_database: AnyDatabase) -> None:
    large = {"small": 2, "large": "x" * 100_000}
    with lenient_sql_mode(legacy_database):
        store = DBStore(connection_string=legacy_database.url)
        store.create_run_log("run")
        store.set_parameters("run", {"small": 1, "large": 1})
        if is_mariadb(legacy_database):
            with pytest.raises(
                InvalidValueError, match=r"Parameter 'large' of run 'run' .* 65535 bytes. Run create_tables"
            ):
                store.set_parameters("run", large)
            assert store.get_parameters("run") == {"small": 1, "large": 1}
            store.set_parameters("run", {"large": "x" * 65_533})
            assert store.get_parameters("run")["large"] == "x" * 65_533
            store.close()
            db.create_tables(legacy_database.url)
            store = DBStore(connection_string=legacy_database.url)
        store.set_parameters("run", large)
        assert store.get_parameters("run") == large
        store.close()


def test_unsupported_characters_in_name_raise(legacy_database: AnyDatabase) -> None:
    names = {each: each for each in NON_LATIN1_NAMES}
    with lenient_sql_mode(legacy_database):
        store = DBStore(connection_string=legacy_database.url)
        store.create_run_log("run")
        if is_mariadb(legacy_database):
            with pytest.raises(peewee.DataError, match="attribute_key"):
                store.set_parameters("run", {"x": 1, **names})
            assert store.get_parameters("run") == {}
            store.close()
            db.create_tables(legacy_database.url)
            store = DBStore(connection_string=legacy_database.url)
        store.set_parameters("run", names)
        assert store.get_parameters("run") == names
        store.close()


# Rows of the older extension

TIME_PREFIX = "2024-02-29 12:00:0"


def test_mark_failed_leaves_a_run_whose_newer_row_has_ended(
    legacy_store: DBStore, legacy_database: AnyDatabase
) -> None:
    for number, status in enumerate(("PROCESSING", "SUCCESS")):
        run_log = RunLog(run_id="run", status=status)
        insert_legacy_row(legacy_database, "RunLog", "run_log", run_log.model_dump(), f"{TIME_PREFIX}{number}")
    assert runs.mark_failed(legacy_store, "run") == []
    run = runs.read_run(legacy_store, "run")
    assert run.run_log.status == "SUCCESS" and not run.notes


def insert_legacy_run(database: AnyDatabase) -> None:
    """Insert a run with duplicate rows. The newest duplicate is not always the last inserted."""
    insert_legacy_row(
        database, "RunLog", "run_log", RunLog(run_id="run", tag="old").model_dump(), TIME_PREFIX + "0.100000"
    )
    insert_legacy_row(database, "Parameter", "x", "newest", TIME_PREFIX + "3.300000")
    insert_legacy_row(database, "Parameter", "x", "older", TIME_PREFIX + "1.200000")
    insert_legacy_row(database, "StepLog", "s1", step("s1", status="SUCCESS").model_dump(), TIME_PREFIX + "4")
    insert_legacy_row(database, "StepLog", "s1", step("s1", status="PROCESSING").model_dump(), TIME_PREFIX + "2.100000")
    insert_legacy_row(database, "StepLog", "map", step("map", step_type="map").model_dump(), TIME_PREFIX + "5.100000")
    insert_legacy_row(
        database, "BranchLog", "map.a", BranchLog(internal_name="map.a").model_dump(), TIME_PREFIX + "6.100000"
    )
    insert_legacy_row(
        database,
        "BranchLog",
        "map.a",
        BranchLog(internal_name="map.a", status="FAIL").model_dump(),
        TIME_PREFIX + "7.100000",
    )
    insert_legacy_row(
        database, "StepLog", "map.a.s2", step("map.a.s2", status="FAIL").model_dump(), TIME_PREFIX + "8.100000"
    )


def test_newest_duplicate_is_read(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    insert_legacy_run(legacy_database)
    assert legacy_store.get_parameters("run") == {"x": "newest"}
    assert legacy_store.get_step_log("s1", "run").status == "SUCCESS"
    assert legacy_store.get_step_log("map.a.s2", "run").status == "FAIL"
    assert legacy_store.get_branch_log("map.a", "run").status == "FAIL"
    run_log = legacy_store.get_run_log_by_id("run", full=True)
    assert run_log.tag == "old" and run_log.parameters == {"x": "newest"}
    assert {name: log.status for name, log in run_log.steps.items()} == {"s1": "SUCCESS", "map": "FAIL"}
    branch = run_log.steps["map"].branches["map.a"]
    assert branch.status == "FAIL"
    assert {name: log.status for name, log in branch.steps.items()} == {"map.a.s2": "FAIL"}


def test_legacy_run_can_continue(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    insert_legacy_run(legacy_database)
    continue_run(legacy_store)


def test_legacy_run_can_continue_after_create_tables(legacy_database: AnyDatabase) -> None:
    insert_legacy_run(legacy_database)
    for second in "126":
        # SQLite compares times as text. The other databases convert the text to a time.
        legacy_database.sql(
            "DELETE FROM db_log WHERE created_at BETWEEN ? AND ?", TIME_PREFIX + second, TIME_PREFIX + second + ".9"
        )
    before = rows_of(legacy_database)
    db.create_tables(legacy_database.url)
    assert rows_of(legacy_database) == before
    store = DBStore(connection_string=legacy_database.url)
    continue_run(store)
    store.close()


def continue_run(store: DBStore) -> None:
    for attempt in ("1", "2"):
        store.set_parameters("run", {"x": attempt, "y": attempt})
        store.add_step_log(step("s1", message=attempt), "run")
        store.add_branch_log(BranchLog(internal_name="map.a", status=attempt), "run")
        store.add_step_log(step("map.a.s2", message=attempt), "run")
        store.add_step_log(step("map.a.s3"), "run")
        store.update_run_log_status("run", attempt)
        assert store.get_parameters("run") == {"x": attempt, "y": attempt}
        assert store.get_step_log("s1", "run").message == attempt
        assert store.get_branch_log("map.a", "run").status == attempt
        run_log = store.get_run_log_by_id("run", full=True)
        assert run_log.status == attempt and run_log.tag == "old"
        assert run_log.parameters == {"x": attempt, "y": attempt}
        assert list(run_log.steps) == ["s1", "map"] and run_log.steps["s1"].message == attempt
        branch = run_log.steps["map"].branches["map.a"]
        assert branch.status == attempt
        assert list(branch.steps) == ["map.a.s2", "map.a.s3"] and branch.steps["map.a.s2"].message == attempt


# create_tables


def test_create_tables_completes_legacy_table_and_keeps_rows(legacy_database: AnyDatabase) -> None:
    store = DBStore(connection_string=legacy_database.url)
    store.create_run_log("run")
    store.set_parameters("run", {"x": 1})
    before = rows_of(legacy_database)
    incomplete = definition_of(legacy_database)
    db.create_tables(legacy_database.url)
    assert rows_of(legacy_database) == before
    completed = definition_of(legacy_database)
    assert completed != incomplete
    db.create_tables(legacy_database.url)
    assert definition_of(legacy_database) == completed
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        legacy_database.sql(
            "INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) "
            "SELECT run_id, attribute_type, attribute_key, attribute_value, created_at FROM db_log"
        )
    store.close()


def test_duplicate_rows_raise_and_nothing_changes(legacy_database: AnyDatabase) -> None:
    for run_id, count in (("twice", 2), ("thrice", 3), ("once", 1)):
        for each in range(count):
            insert_legacy_row(legacy_database, "Parameter", "x", each, f"{TIME_PREFIX}{each}", run_id)
    for each in SIMILAR_NAMES:
        insert_legacy_row(legacy_database, "Parameter", each, 1, f"{TIME_PREFIX}0", "similar")
    before = rows_of(legacy_database), definition_of(legacy_database)
    match = r"has 3 duplicate rows in 2 runs: thrice \(2\), twice \(1\)\. .* keep the newest .* run create_tables again"
    with pytest.raises(WrongTableError, match=match):
        db.create_tables(legacy_database.url)
    assert (rows_of(legacy_database), definition_of(legacy_database)) == before

    newest = "SELECT MAX(pk) FROM (SELECT * FROM db_log) AS l WHERE run_id IN ('twice', 'thrice') GROUP BY run_id"
    legacy_database.sql(f"DELETE FROM db_log WHERE run_id IN ('twice', 'thrice') AND pk NOT IN ({newest})")
    db.create_tables(legacy_database.url)
    store = DBStore(connection_string=legacy_database.url)
    for run_id, value in (("twice", 1), ("thrice", 2), ("once", 0)):
        store.create_run_log(run_id)
        assert store.get_parameters(run_id) == {"x": value}
    store.close()


def call_create_tables(number: int, url: str) -> None:
    db.create_tables(url)


def test_concurrent_create_tables(database: AnyDatabase, tmp_path: Any) -> None:
    db.create_tables(database.url)
    expected = definition_of(database)
    drop_table(database)
    run_in_processes(PROCESS_COUNT, call_create_tables, database.url)
    assert definition_of(database) == expected


def test_concurrent_create_tables_on_legacy_table(legacy_database: AnyDatabase) -> None:
    db.create_tables(legacy_database.url)
    expected = definition_of(legacy_database)
    drop_table(legacy_database)
    create_legacy_table(legacy_database)
    run_in_processes(PROCESS_COUNT, call_create_tables, legacy_database.url)
    assert definition_of(legacy_database) == expected


def create_tables_or_write(number: int, url: str) -> None:
    if number == 0:
        db.create_tables(url)
        return
    store = DBStore(connection_string=url)
    for each in range(30):
        store.set_parameters("run", {"shared": number, f"{number} {each}": each})
        store.add_step_log(step(f"{number} {each}"), "run")


def test_create_tables_does_not_interrupt_writers(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    legacy_store.create_run_log("run")
    run_in_processes(PROCESS_COUNT, create_tables_or_write, legacy_database.url)
    legacy_store.set_parameters("run", {"shared": 0, "afterwards": 1})
    legacy_store.add_step_log(step("afterwards"), "run")
    names = {f"{number} {each}" for number in range(1, PROCESS_COUNT) for each in range(30)}
    run_log = legacy_store.get_run_log_by_id("run", full=True)
    assert set(run_log.parameters) == {"shared", "afterwards", *names}
    assert set(run_log.steps) == {"afterwards", *names}
    assert len(rows_of(legacy_database)) == 1 + 2 + 1 + 2 * len(names)


def test_open_store_works_after_create_tables(legacy_store: DBStore, legacy_database: AnyDatabase) -> None:
    legacy_store.create_run_log("run")
    db.create_tables(legacy_database.url)
    newer = DBStore(connection_string=legacy_database.url)
    for number in range(5):
        newer.add_step_log(step(f"newer {number}"), "run")
    for number in range(5):
        legacy_store.add_step_log(step(f"s{number}"), "run")
        legacy_store.set_parameters("run", {"a": number, "b": number})
    newer.set_parameters("run", {"a": 5, "b": 5})
    run_log = newer.get_run_log_by_id("run", full=True)
    assert list(run_log.steps) == [*(f"newer {number}" for number in range(5)), *(f"s{number}" for number in range(5))]
    assert run_log.parameters == legacy_store.get_parameters("run") == {"a": 5, "b": 5}
    newer.close()


def test_create_tables_after_dropping_legacy_table(legacy_database: AnyDatabase) -> None:
    """The sequence of the dropped table still exists."""
    legacy_database.sql("DROP TABLE db_log")
    db.create_tables(legacy_database.url)
    store = DBStore(connection_string=legacy_database.url)
    store.create_run_log("run")
    assert store.get_run_log_by_id("run").run_id == "run"
    store.close()


def test_new_table_ignores_database_defaults(database: AnyDatabase) -> None:
    db.create_tables(database.url)
    store = DBStore(connection_string=database.url)
    names = [*SIMILAR_NAMES, *NON_LATIN1_NAMES, "n" * 500]
    run_ids = ["run", "Run", "run ", NON_LATIN1_NAMES[1], "r" * 200]
    for run_id in run_ids:
        store.create_run_log(run_id)
        store.set_parameters(run_id, {name: f"{name} of {run_id}" for name in names})
    for run_id in run_ids:
        assert store.get_parameters(run_id) == {name: f"{name} of {run_id}" for name in names}
    large = "\U0001f511" * 2_000_000
    store.set_parameters("run", {"large": large})
    assert store.get_parameters("run")["large"] == large
    assert any(datetime.datetime.fromisoformat(str(row[4])).microsecond for row in rows_of(database))
    store.close()


def test_create_run_log_twice_in_same_microsecond_raises(
    any_legacy_database: AnyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "utcnow", lambda: datetime.datetime(2024, 2, 29, 12))
    assert [create_run(number, any_legacy_database.url) for number in range(2)] == [True, False]


# Roles


@pytest.fixture
def grant_to_role(database: AnyDatabase) -> Iterator[Callable[..., str]]:
    """Return a function that grants privileges to a new role and returns the role's connection string."""
    if not isinstance(database, Database):
        pytest.skip("SQLite has no roles")
    role = f"clerk_{uuid.uuid4().hex[:12]}"
    accounts = ", ".join(f"'{role}'@'{host}'" for host in ("%", "localhost")) if is_mariadb(database) else role

    def grant(*privileges: str) -> str:
        for privilege in privileges:
            database.sql(f"GRANT {privilege} TO {accounts}")
        return database.url.replace("scott:tiger", f"{role}:tiger")

    if is_mariadb(database):
        database.sql("CREATE USER " + ", ".join(f"{each} IDENTIFIED BY 'tiger'" for each in accounts.split(", ")))
    else:
        database.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # the default since PostgreSQL 15
        database.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'tiger'")
    yield grant
    if is_mariadb(database):
        database.sql(f"DROP USER {accounts}")
    else:
        database.sql(f"DROP OWNED BY {role}")
        database.sql(f"DROP ROLE {role}")


def run_all_pipeline_operations(url: str) -> None:
    store = DBStore(connection_string=url)
    store.create_run_log("run")
    with pytest.raises(exceptions.RunLogExistsError):
        store.create_run_log("run")
    store.put_run_log(RunLog(run_id="run", tag="mine"))
    for status in ("PROCESSING", "SUCCESS"):
        store.set_parameters("run", {"a": status, "b": status})
        store.set_parameters("run", {"a": status})
        store.add_step_log(step("map", status=status), "run")
        store.add_branch_log(BranchLog(internal_name="map.a", status=status), "run")
        store.add_step_log(step("map.a.s", status=status), "run")
        store.set_run_config("run", {"status": status})
        store.update_run_log_status("run", status)
        assert store.get_branch_log("map.a", "run").status == store.get_step_log("map.a.s", "run").status == status
    run_log = store.get_run_log_by_id("run", full=True)
    assert run_log.tag == "mine" and run_log.status == "SUCCESS" and run_log.run_config == {"status": "SUCCESS"}
    assert run_log.parameters == {"a": "SUCCESS", "b": "SUCCESS"}
    assert run_log.steps["map"].branches["map.a"].steps["map.a.s"].status == "SUCCESS"
    store.close()


def test_select_insert_update_privileges_are_enough(database: AnyDatabase, grant_to_role: Callable[..., str]) -> None:
    db.create_tables(database.url)
    run_all_pipeline_operations(grant_to_role("SELECT, INSERT, UPDATE ON db_log"))


def sequence_privilege(database: AnyDatabase) -> str:
    return "SELECT, INSERT ON id_seq" if is_mariadb(database) else "USAGE ON SEQUENCE id_seq"


def test_sequence_privilege_is_enough_on_legacy_table(
    any_legacy_database: AnyDatabase, grant_to_role: Callable[..., str]
) -> None:
    privileges = [sequence_privilege(any_legacy_database)] if has_sequences(any_legacy_database) else []
    url = grant_to_role("SELECT, INSERT, UPDATE ON db_log", *privileges)
    run_all_pipeline_operations(url)


def test_missing_sequence_privilege_raises(legacy_database: AnyDatabase, grant_to_role: Callable[..., str]) -> None:
    if not has_sequences(legacy_database):
        pytest.skip("MySQL has no sequences")
    store = DBStore(connection_string=grant_to_role("SELECT, INSERT, UPDATE ON db_log"))
    with pytest.raises(peewee.PeeweeException, match=r"(?i)(denied|permission).*id_seq"):
        store.create_run_log("run")
    store.close()


def test_missing_table_error_contains_the_command(database: AnyDatabase, grant_to_role: Callable[..., str]) -> None:
    privileges = [f"SELECT, INSERT, UPDATE ON {database.name}.*"] if is_mariadb(database) else []
    url = grant_to_role(*privileges)
    store = DBStore(connection_string=url)
    command = re.escape("""'import os; from magnus_peewee_store import db; db.create_tables(os.environ["DSN"])'""")
    for call in (store.create_run_log, store.get_run_log_by_id, store.get_parameters):
        with pytest.raises(MissingTableError, match=rf"(?s)table db_log does not exist .*{command}") as exc_info:
            call("run")
        assert "tiger" not in str(exc_info.value)
    store.close()
    db.create_tables(database.url)
    if not is_mariadb(database):
        grant_to_role("SELECT, INSERT, UPDATE ON db_log")
    run_all_pipeline_operations(url)


def test_batch_write_with_manually_created_index(legacy_database: AnyDatabase, legacy_store: DBStore) -> None:
    if isinstance(legacy_database, Database) and legacy_database.server.kind == "mysql":
        pytest.skip("MySQL has no index over whole TEXT columns")
    legacy_database.sql("CREATE UNIQUE INDEX by_hand ON db_log (run_id, attribute_type, attribute_key)")
    legacy_store.create_run_log("run")
    parameters = {f"parameter {number}": number for number in range(3)}
    legacy_store.set_parameters("run", parameters)
    assert legacy_store.get_parameters("run") == parameters
