"""PgBouncer between the store and PostgreSQL. It may run each transaction in a different session."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from concurrency import run_in_processes
from conftest import new_server
from magnus.datastore import StepLog
from servers import OWNER, PASSWORD, Database, free_port, is_listened_on
from test_faults import until
from test_processes import write_branch

from magnus_peewee_store import DBStore


@pytest.fixture(scope="module", params=["postgresql+psycopg2", "postgresql+psycopg"])
def pgbouncer_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database whose URL points to PgBouncer in transaction mode, with three sessions for all clients."""
    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if not binary:
        missing = "PgBouncer is not installed: apt-get install pgbouncer"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    server = new_server("postgresql")
    process = None
    try:
        database = server.database(request.param)
        folder: Path = tmp_path_factory.mktemp("pgbouncer")
        port = free_port()
        (folder / "users").write_text(f'"{OWNER}" "{PASSWORD}"\n')
        (folder / "ini").write_text(
            f"[databases]\n{database.name} = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
            "max_client_conn = 100\n"
        )
        user = []
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            for each in (folder, *folder.parents):
                each.chmod(each.stat().st_mode | 0o555)
            user = ["setpriv", f"--reuid={pwd.getpwnam('nobody').pw_uid}", "--clear-groups", "--pdeathsig=KILL"]
        process = subprocess.Popen([*user, binary, "-q", str(folder / "ini")], stderr=subprocess.DEVNULL)
        until(lambda: is_listened_on(port))
        database.url = database.url.replace(f":{server.port}/", f":{port}/")
        yield database
    finally:
        if process:
            process.kill()
            process.wait()
        server.remove()


def test_transaction_pooling_loses_nothing(pgbouncer_database: Any) -> None:
    store = DBStore(connection_string=pgbouncer_database.url)
    store.create_run_log("run")
    store.add_step_log(StepLog(name="map", internal_name="map"), "run")
    run_in_processes(8, write_branch, pgbouncer_database.url)
    branches = store.get_run_log_by_id("run", full=True).steps["map"].branches
    assert [len(branch.steps) for branch in branches.values()] == [5] * 8
    store.close()


def test_schema_option_works_through_transaction_pooling(pgbouncer_database: Any) -> None:
    pgbouncer_database.sql(f"CREATE SCHEMA team_a AUTHORIZATION {OWNER}")
    url = f"{pgbouncer_database.url}?schema=team_a"
    store = DBStore(connection_string=url)
    try:
        store.create_run_log("run")
        store.add_step_log(StepLog(name="map", internal_name="map"), "run")
        run_in_processes(4, write_branch, url)
        assert len(store.get_run_log_by_id("run", full=True).steps["map"].branches) == 4
        assert pgbouncer_database.sql("SELECT COUNT(*) FROM team_a.db_log WHERE attribute_type = 'Branch'") == [(4,)]
    finally:
        store.close()
        pgbouncer_database.sql("DROP SCHEMA team_a CASCADE")
