"""What README.md tells its readers to do, done. Its shell commands are run by .ci/run."""

import re
from pathlib import Path
from typing import List

import pytest
import readme
from conftest import new_server
from magnus.datastore import StepLog

from magnus_peewee_store import DBStore, create_tables


def statements(name: str) -> List[str]:
    """The SQL in the block of README.md marked so."""
    return [statement for statement in readme.block(name).split(";") if statement.strip()]


@pytest.mark.parametrize(("kind", "scheme"), [("postgresql", "postgresql"), ("mariadb", "mysql")])
def test_the_roles_are_made_as_it_says_and_run_pipelines(kind: str, scheme: str) -> None:
    server = new_server(kind)
    try:
        for statement in statements(kind):
            server.sql(statement)
        create_tables(f"{scheme}://magnus:choose-one@127.0.0.1:{server.port}/run_logs")
        for statement in statements(f"{kind}-least"):
            server.sql(statement, database="run_logs")
        for role, password in (("magnus", "choose-one"), ("pipelines", "choose-another")):
            store = DBStore(connection_string=f"{scheme}://{role}:{password}@127.0.0.1:{server.port}/run_logs")
            store.create_run_log(role)
            store.set_parameters(role, {"x": 1, "y": 2})
            store.add_step_log(StepLog(name="a", internal_name="a"), role)
            store.add_step_log(StepLog(name="a", internal_name="a", status="SUCCESS"), role)
            store.update_run_log_status(role, "SUCCESS")
            assert store.get_run_log_by_id(role, full=True).steps["a"].status == "SUCCESS"
            store.close()
    finally:
        server.remove()


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", readme.TEXT))), ids="::".join)
def test_the_tests_that_it_names_are_there(test: List[str]) -> None:
    file, function = test
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert f"def {function or 'test_'}" in text
