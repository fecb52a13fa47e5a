"""Tables that others made or filled, roles that may do little, and what `create_tables` makes of it all."""

import contextlib
import datetime
import json
import uuid
from typing import Any, Callable, Iterator, List, Tuple

import peewee
import pytest
from conftest import AnyDatabase, SqliteFile
from crowds import at_once
from logs import step
from magnus import exceptions
from magnus.datastore import BranchLog, RunLog
from servers import Database

from magnus_peewee_store import DBStore, db

CROWD = 12
MANY = [f"run {number:02}" for number in range(25)]
# Alike in case, in accent, in width, in spaces at the end, or in what a character expands to; one beyond latin1, and
# one beyond the three bytes that MariaDB's `utf8` has for a character.
LOOKALIKES = ["x", "xy", "a", "A", "a ", "e", "\u00e9", "ss", "\u00df"]
BEYOND_LATIN1 = ["\u043a\u043b\u044e\u0447", "\U0001f511"]


def drop(database: AnyDatabase) -> None:
    database.sql("DROP TABLE IF EXISTS db_log")
    if has_sequences(database):
        database.sql("DROP SEQUENCE IF EXISTS id_seq")


def make_their_table(database: AnyDatabase) -> None:
    # Here, as each process of a crowd imports this file.
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

    # SQLAlchemy makes MariaDB's sequence only where it is told that it is MariaDB.
    engine = create_engine(database.url.replace("mysql+", "mariadb+") if has_sequences(database) else database.url)
    Base.metadata.create_all(engine)
    engine.dispose()


@pytest.fixture
def theirs(database: AnyDatabase) -> Iterator[AnyDatabase]:
    """A database with the table of the older extension."""
    make_their_table(database)
    yield database
    drop(database)


@pytest.fixture(params=["theirs", "theirs, completed"])
def theirs_either_way(request: pytest.FixtureRequest, theirs: AnyDatabase) -> AnyDatabase:
    if request.param == "theirs, completed":
        db.create_tables(theirs.url)
    return theirs


@pytest.fixture
def on_theirs(theirs: AnyDatabase) -> Iterator[DBStore]:
    """The store, on the table of the older extension."""
    store = DBStore(connection_string=theirs.url)
    yield store
    store.close()


def write(database: AnyDatabase, kind: str, key: str, value: Any, created_at: str, run_id: str = "run") -> None:
    """Write a row as the older extension does: always a new one."""
    pk = "NULL"
    if has_sequences(database):
        pk = "NEXT VALUE FOR id_seq" if is_mariadb(database) else "nextval('id_seq')"
    database.sql(
        "INSERT INTO db_log (pk, run_id, attribute_type, attribute_key, attribute_value, created_at) "
        f"VALUES ({pk}, ?, ?, ?, ?, ?)",
        *(run_id, kind, key, json.dumps(value), created_at),
    )


def has_sequences(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.server.has_sequences


def is_mariadb(database: AnyDatabase) -> bool:
    return isinstance(database, Database) and database.scheme.startswith("mysql")


def rows_of(database: AnyDatabase) -> List[Tuple[Any, ...]]:
    columns = "run_id, attribute_type, attribute_key, attribute_value, created_at"
    return database.sql(f"SELECT {columns} FROM db_log ORDER BY pk")


def definition_of(database: AnyDatabase) -> Any:
    """All there is to know of how the table stands."""
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


# A crowd on their table


def create_the_run(number: int, url: str) -> bool:
    store = DBStore(connection_string=url)
    try:
        store.create_run_log("run")
        return True
    except exceptions.RunLogExistsError:
        return False
    finally:
        store.close()


def create_the_same_runs(number: int, url: str) -> List[str]:
    """Many, as a crowd does not keep in step for long."""
    store = DBStore(connection_string=url)
    created = []
    for run_id in MANY:
        with contextlib.suppress(exceptions.RunLogExistsError):
            store.create_run_log(run_id, tag=str(number))
            created.append(run_id)
    return created


def test_of_a_crowd_that_creates_one_run_one_succeeds(theirs: AnyDatabase) -> None:
    created = at_once(CROWD, create_the_same_runs, theirs.url)
    assert sorted(run_id for each in created for run_id in each) == MANY
    assert sorted(row[0] for row in rows_of(theirs)) == MANY


def put_the_same_runs(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    for run_id in MANY:
        store.put_run_log(RunLog(run_id=run_id, tag=str(number), parameters={"x": number}))


def test_a_run_log_that_a_crowd_puts_is_there_once_and_whole(theirs: AnyDatabase) -> None:
    at_once(CROWD, put_the_same_runs, theirs.url)
    store = DBStore(connection_string=theirs.url)
    run_logs = [store.get_run_log_by_id(run_id) for run_id in MANY]
    assert all(run_log.tag == str(run_log.parameters["x"]) for run_log in run_logs)
    assert sorted(row[:2] for row in rows_of(theirs)) == [
        (run_id, kind) for run_id in MANY for kind in ("Parameter", "RunLog")
    ]
    store.close()


def write_one_step(number: int, url: str) -> None:
    DBStore(connection_string=url).add_step_log(step("s", message=str(number)), "run")


def test_a_key_that_a_crowd_writes_has_one_row(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    on_theirs.create_run_log("run")
    at_once(CROWD, write_one_step, theirs.url)
    assert [row[1:3] for row in rows_of(theirs)] == [("RunLog", "run_log"), ("Step", "s")]
    assert on_theirs.get_step_log("s", "run").message in map(str, range(CROWD))


def write_a_share(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    store.add_branch_log(BranchLog(internal_name=f"map.{number}"), "run")
    for attempt in range(5):
        store.add_step_log(step(f"map.{number}.{attempt}"), "run")
        store.set_parameters("run", {"shared": number, f"own {number} {attempt}": attempt})
        store.set_run_config("run", {f"seen by {number}": attempt})


def test_a_crowd_that_writes_one_run_loses_nothing(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    on_theirs.create_run_log("run")
    on_theirs.add_step_log(step("map", step_type="map"), "run")
    at_once(CROWD, write_a_share, theirs.url)
    run_log = on_theirs.get_run_log_by_id("run", full=True)
    assert {name: list(branch.steps) for name, branch in run_log.steps["map"].branches.items()} == {
        f"map.{number}": [f"map.{number}.{attempt}" for attempt in range(5)] for number in range(CROWD)
    }
    own = {f"own {number} {attempt}": attempt for number in range(CROWD) for attempt in range(5)}
    assert run_log.parameters == {**own, "shared": run_log.parameters["shared"]}
    assert run_log.run_config == {f"seen by {number}": 4 for number in range(CROWD)}
    assert len(rows_of(theirs)) == 2 + CROWD + CROWD * 5 * 2 + 1


def set_the_same_parameters(number: int, url: str) -> None:
    DBStore(connection_string=url).set_parameters("run", {f"p{each}": number for each in range(30)})


def test_parameters_that_a_crowd_sets_together_are_seen_together(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    on_theirs.create_run_log("run")
    at_once(CROWD, set_the_same_parameters, theirs.url)
    parameters = on_theirs.get_parameters("run")
    assert len(parameters) == 30 and len(set(parameters.values())) == 1


def create_runs(number: int, url: str) -> None:
    store = DBStore(connection_string=url)
    for each in range(5):
        store.create_run_log(f"run {number} {each}")


def test_a_crowd_that_creates_runs_of_its_own_loses_none(theirs: AnyDatabase) -> None:
    at_once(CROWD, create_runs, theirs.url)
    run_ids = [f"run {number} {each}" for number in range(CROWD) for each in range(5)]
    assert sorted(row[0] for row in rows_of(theirs)) == sorted(run_ids)


# What it holds


def test_names_that_look_alike_stay_apart(theirs_either_way: AnyDatabase) -> None:
    store = DBStore(connection_string=theirs_either_way.url)
    for run_id in ("run", "Run", "run "):
        store.create_run_log(run_id)
        for each in (*LOOKALIKES, *reversed(LOOKALIKES)):
            store.set_parameters(run_id, {each: f"{each} of {run_id}"})
            store.add_step_log(step(each), run_id)
    for run_id in ("run", "Run", "run "):
        run_log = store.get_run_log_by_id(run_id, full=True)
        assert run_log.run_id == run_id
        assert run_log.parameters == {each: f"{each} of {run_id}" for each in LOOKALIKES}
        assert list(run_log.steps) == LOOKALIKES
        assert [store.get_step_log(each, run_id).internal_name for each in LOOKALIKES] == LOOKALIKES
    store.close()


def test_steps_stay_in_the_order_they_were_written(on_theirs: DBStore) -> None:
    on_theirs.create_run_log("run")
    names = [f"s{number}" for number in range(30)]
    for name in names:
        on_theirs.add_step_log(step(name), "run")
    for name in reversed(names):
        on_theirs.add_step_log(step(name, status="SUCCESS"), "run")
    assert list(on_theirs.get_run_log_by_id("run", full=True).steps) == names


@contextlib.contextmanager
def lenient(database: AnyDatabase) -> Iterator[None]:
    """A server whose administrator has it cut off what is too long, as MariaDB and MySQL once did by default."""
    if not is_mariadb(database):
        yield
        return
    [(mode,)] = database.sql("SELECT @@GLOBAL.sql_mode")
    database.sql("SET GLOBAL sql_mode = ''")
    try:
        yield
    finally:
        database.sql("SET GLOBAL sql_mode = ?", mode)


def test_a_large_value_is_kept_whole_or_refused_with_words_that_help(theirs: AnyDatabase) -> None:
    large = {"small": 2, "large": "x" * 100_000}
    with lenient(theirs):
        store = DBStore(connection_string=theirs.url)
        store.create_run_log("run")
        store.set_parameters("run", {"small": 1, "large": 1})
        if is_mariadb(theirs):
            with pytest.raises(peewee.DataError, match=r"Parameter large of the run run .* 65535: run create_tables"):
                store.set_parameters("run", large)
            assert store.get_parameters("run") == {"small": 1, "large": 1}
            store.set_parameters("run", {"large": "x" * 65_533})
            assert store.get_parameters("run")["large"] == "x" * 65_533
            store.close()
            db.create_tables(theirs.url)
            store = DBStore(connection_string=theirs.url)
        store.set_parameters("run", large)
        assert store.get_parameters("run") == large
        store.close()


def test_a_name_that_the_table_cannot_hold_is_refused_not_garbled(theirs: AnyDatabase) -> None:
    names = {each: each for each in BEYOND_LATIN1}
    with lenient(theirs):
        store = DBStore(connection_string=theirs.url)
        store.create_run_log("run")
        if is_mariadb(theirs):
            with pytest.raises(peewee.DataError, match="attribute_key"):
                store.set_parameters("run", {"x": 1, **names})
            assert store.get_parameters("run") == {}
            store.close()
            db.create_tables(theirs.url)
            store = DBStore(connection_string=theirs.url)
        store.set_parameters("run", names)
        assert store.get_parameters("run") == names
        store.close()


# What the older extension wrote

A_DAY = "2024-02-29 12:00:0"


def write_an_old_run(database: AnyDatabase) -> None:
    """A run of the older extension, with duplicates whose newest is not the last that was written."""
    write(database, "RunLog", "run_log", RunLog(run_id="run", tag="old").model_dump(), A_DAY + "0.100000")
    write(database, "Parameter", "x", "newest", A_DAY + "3.300000")
    write(database, "Parameter", "x", "older", A_DAY + "1.200000")
    write(database, "StepLog", "s1", step("s1", status="SUCCESS").model_dump(), A_DAY + "4")
    write(database, "StepLog", "s1", step("s1", status="PROCESSING").model_dump(), A_DAY + "2.100000")
    write(database, "StepLog", "map", step("map", step_type="map").model_dump(), A_DAY + "5.100000")
    write(database, "BranchLog", "map.a", BranchLog(internal_name="map.a").model_dump(), A_DAY + "6.100000")
    write(
        database, "BranchLog", "map.a", BranchLog(internal_name="map.a", status="FAIL").model_dump(), A_DAY + "7.100000"
    )
    write(database, "StepLog", "map.a.s2", step("map.a.s2", status="FAIL").model_dump(), A_DAY + "8.100000")


def test_of_what_the_older_extension_wrote_twice_the_newest_is_read(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    write_an_old_run(theirs)
    assert on_theirs.get_parameters("run") == {"x": "newest"}
    assert on_theirs.get_step_log("s1", "run").status == "SUCCESS"
    assert on_theirs.get_step_log("map.a.s2", "run").status == "FAIL"
    assert on_theirs.get_branch_log("map.a", "run").status == "FAIL"
    run_log = on_theirs.get_run_log_by_id("run", full=True)
    assert run_log.tag == "old" and run_log.parameters == {"x": "newest"}
    assert {name: log.status for name, log in run_log.steps.items()} == {"s1": "SUCCESS", "map": "FAIL"}
    branch = run_log.steps["map"].branches["map.a"]
    assert branch.status == "FAIL"
    assert {name: log.status for name, log in branch.steps.items()} == {"map.a.s2": "FAIL"}


def test_a_run_of_the_older_extension_is_carried_on(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    write_an_old_run(theirs)
    carry_on(on_theirs)


def test_a_run_of_the_older_extension_is_carried_on_once_its_table_is_complete(theirs: AnyDatabase) -> None:
    write_an_old_run(theirs)
    for second in "126":
        # As text on SQLite, where times are text; the other two make a time of it.
        theirs.sql("DELETE FROM db_log WHERE created_at BETWEEN ? AND ?", A_DAY + second, A_DAY + second + ".9")
    before = rows_of(theirs)
    db.create_tables(theirs.url)
    assert rows_of(theirs) == before
    store = DBStore(connection_string=theirs.url)
    carry_on(store)
    store.close()


def carry_on(store: DBStore) -> None:
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


def test_a_table_of_others_is_completed_and_keeps_its_rows(theirs: AnyDatabase) -> None:
    store = DBStore(connection_string=theirs.url)
    store.create_run_log("run")
    store.set_parameters("run", {"x": 1})
    before = rows_of(theirs)
    bare = definition_of(theirs)
    db.create_tables(theirs.url)
    assert rows_of(theirs) == before
    completed = definition_of(theirs)
    assert completed != bare
    db.create_tables(theirs.url)
    assert definition_of(theirs) == completed
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        theirs.sql(
            "INSERT INTO db_log (run_id, attribute_type, attribute_key, attribute_value, created_at) "
            "SELECT run_id, attribute_type, attribute_key, attribute_value, created_at FROM db_log"
        )
    store.close()


def test_duplicates_in_the_way_are_told_and_nothing_is_changed(theirs: AnyDatabase) -> None:
    for run_id, count in (("twice", 2), ("thrice", 3), ("once", 1)):
        for each in range(count):
            write(theirs, "Parameter", "x", each, f"{A_DAY}{each}", run_id)
    for each in LOOKALIKES:
        write(theirs, "Parameter", each, 1, f"{A_DAY}0", "lookalikes")
    before = rows_of(theirs), definition_of(theirs)
    told = r"has 3 rows too many, of 2 runs: thrice \(2\), twice \(1\)\. .* keep the newest .* run create_tables again"
    with pytest.raises(db.DuplicateRowsError, match=told):
        db.create_tables(theirs.url)
    assert (rows_of(theirs), definition_of(theirs)) == before

    newest = "SELECT MAX(pk) FROM (SELECT * FROM db_log) AS l WHERE run_id IN ('twice', 'thrice') GROUP BY run_id"
    theirs.sql(f"DELETE FROM db_log WHERE run_id IN ('twice', 'thrice') AND pk NOT IN ({newest})")
    db.create_tables(theirs.url)
    store = DBStore(connection_string=theirs.url)
    for run_id, value in (("twice", 1), ("thrice", 2), ("once", 0)):
        store.create_run_log(run_id)
        assert store.get_parameters(run_id) == {"x": value}
    store.close()


def complete(number: int, url: str) -> None:
    db.create_tables(url)


def test_a_crowd_that_makes_the_table_succeeds(database: AnyDatabase, tmp_path: Any) -> None:
    db.create_tables(database.url)
    alone = definition_of(database)
    drop(database)
    at_once(CROWD, complete, database.url)
    assert definition_of(database) == alone


def test_a_crowd_that_completes_a_table_of_others_succeeds(theirs: AnyDatabase) -> None:
    db.create_tables(theirs.url)
    alone = definition_of(theirs)
    drop(theirs)
    make_their_table(theirs)
    at_once(CROWD, complete, theirs.url)
    assert definition_of(theirs) == alone


def complete_or_write(number: int, url: str) -> None:
    if number == 0:
        db.create_tables(url)
        return
    store = DBStore(connection_string=url)
    for each in range(30):
        store.set_parameters("run", {"shared": number, f"{number} {each}": each})
        store.add_step_log(step(f"{number} {each}"), "run")


def test_runs_in_progress_go_on_while_their_table_is_completed(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    on_theirs.create_run_log("run")
    at_once(CROWD, complete_or_write, theirs.url)
    on_theirs.set_parameters("run", {"shared": 0, "afterwards": 1})
    on_theirs.add_step_log(step("afterwards"), "run")
    names = {f"{number} {each}" for number in range(1, CROWD) for each in range(30)}
    run_log = on_theirs.get_run_log_by_id("run", full=True)
    assert set(run_log.parameters) == {"shared", "afterwards", *names}
    assert set(run_log.steps) == {"afterwards", *names}
    assert len(rows_of(theirs)) == 1 + 2 + 1 + 2 * len(names)


def test_a_store_that_knew_the_table_before_it_was_completed_goes_on(on_theirs: DBStore, theirs: AnyDatabase) -> None:
    on_theirs.create_run_log("run")
    db.create_tables(theirs.url)
    newer = DBStore(connection_string=theirs.url)
    for number in range(5):
        newer.add_step_log(step(f"newer {number}"), "run")
    for number in range(5):
        on_theirs.add_step_log(step(f"s{number}"), "run")
        on_theirs.set_parameters("run", {"a": number, "b": number})
    newer.set_parameters("run", {"a": 5, "b": 5})
    run_log = newer.get_run_log_by_id("run", full=True)
    assert list(run_log.steps) == [*(f"newer {number}" for number in range(5)), *(f"s{number}" for number in range(5))]
    assert run_log.parameters == on_theirs.get_parameters("run") == {"a": 5, "b": 5}
    newer.close()


def test_a_database_that_their_table_was_dropped_from_takes_a_new_one(theirs: AnyDatabase) -> None:
    """The table's sequence stays behind."""
    theirs.sql("DROP TABLE db_log")
    db.create_tables(theirs.url)
    store = DBStore(connection_string=theirs.url)
    store.create_run_log("run")
    assert store.get_run_log_by_id("run").run_id == "run"
    store.close()


def test_the_table_takes_any_name_and_any_value_whatever_the_databases_default(database: AnyDatabase) -> None:
    db.create_tables(database.url)
    store = DBStore(connection_string=database.url)
    names = [*LOOKALIKES, *BEYOND_LATIN1, "n" * 500]
    run_ids = ["run", "Run", "run ", BEYOND_LATIN1[1], "r" * 200]
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


def test_of_two_that_create_one_run_in_the_same_instant_one_succeeds(
    theirs_either_way: AnyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "utcnow", lambda: datetime.datetime(2024, 2, 29, 12))
    assert [create_the_run(number, theirs_either_way.url) for number in range(2)] == [True, False]


# Roles


@pytest.fixture
def granted(database: AnyDatabase) -> Iterator[Callable[..., str]]:
    """Gives the connection string of a new role, with so many rights: those of PostgreSQL, and those of MariaDB."""
    if not isinstance(database, Database):
        pytest.skip("SQLite knows no roles")
    role = f"clerk_{uuid.uuid4().hex[:12]}"
    accounts = ", ".join(f"'{role}'@'{host}'" for host in ("%", "localhost")) if is_mariadb(database) else role

    def grant(*rights: str) -> str:
        for right in rights:
            database.sql(f"GRANT {right} TO {accounts}")
        return database.url.replace("scott:tiger", f"{role}:tiger")

    if is_mariadb(database):
        database.sql("CREATE USER " + ", ".join(f"{each} IDENTIFIED BY 'tiger'" for each in accounts.split(", ")))
    else:
        database.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as every PostgreSQL since 15 has it
        database.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'tiger'")
    yield grant
    if is_mariadb(database):
        database.sql(f"DROP USER {accounts}")
    else:
        database.sql(f"DROP OWNED BY {role}")
        database.sql(f"DROP ROLE {role}")


def do_all_that_a_pipeline_needs(url: str) -> None:
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


def test_a_role_that_may_select_insert_and_update_can_run_a_pipeline(
    database: AnyDatabase, granted: Callable[..., str]
) -> None:
    db.create_tables(database.url)
    do_all_that_a_pipeline_needs(granted("SELECT, INSERT, UPDATE ON db_log"))


def on_the_sequence(database: AnyDatabase) -> str:
    return "SELECT, INSERT ON id_seq" if is_mariadb(database) else "USAGE ON SEQUENCE id_seq"


def test_on_a_table_of_others_a_role_needs_the_sequence_too(
    theirs_either_way: AnyDatabase, granted: Callable[..., str]
) -> None:
    rights = [on_the_sequence(theirs_either_way)] if has_sequences(theirs_either_way) else []
    url = granted("SELECT, INSERT, UPDATE ON db_log", *rights)
    do_all_that_a_pipeline_needs(url)


def test_a_role_without_the_sequence_of_a_table_of_others_is_told_so(
    theirs: AnyDatabase, granted: Callable[..., str]
) -> None:
    if not has_sequences(theirs):
        pytest.skip("MySQL has no sequences")
    store = DBStore(connection_string=granted("SELECT, INSERT, UPDATE ON db_log"))
    with pytest.raises(peewee.PeeweeException, match=r"(?i)(denied|permission).*id_seq"):
        store.create_run_log("run")
    store.close()


def test_a_role_that_may_not_make_the_table_is_told_the_command_to_run(
    database: AnyDatabase, granted: Callable[..., str]
) -> None:
    rights = [f"SELECT, INSERT, UPDATE ON {database.name}.*"] if is_mariadb(database) else []
    url = granted(*rights)
    store = DBStore(connection_string=url)
    command = r"python -c 'from magnus_peewee_store import db; db\.create_tables\(\"<connection string>\"\)'"
    for call in (store.create_run_log, store.get_run_log_by_id, store.get_parameters):
        with pytest.raises(db.MissingTableError, match=rf"(?s)no table db_log .*{command}") as raised:
            call("run")
        assert "tiger" not in str(raised.value)
    store.close()
    db.create_tables(database.url)
    if not is_mariadb(database):
        granted("SELECT, INSERT, UPDATE ON db_log")
    do_all_that_a_pipeline_needs(url)


def test_many_rows_are_written_where_only_the_unique_index_was_made_by_hand(
    theirs: AnyDatabase, on_theirs: DBStore
) -> None:
    if isinstance(theirs, Database) and theirs.server.kind == "mysql":
        pytest.skip("MySQL has no index over whole TEXT columns")
    theirs.sql("CREATE UNIQUE INDEX by_hand ON db_log (run_id, attribute_type, attribute_key)")
    on_theirs.create_run_log("run")
    parameters = {f"parameter {number}": number for number in range(3)}
    on_theirs.set_parameters("run", parameters)
    assert on_theirs.get_parameters("run") == parameters
