"""No token in a git remote, a run config or a connection string is shown, logged, stored, exported or copied."""

import contextlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, List

import peewee
import pytest
from click.testing import CliRunner
from conftest import SqliteFile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from logs import sample_run
from magnus.datastore import CodeIdentity, RunLog

from magnus_peewee_store import DBStore, cli, create_tables, fragments, open_store, runs
from magnus_peewee_store.db.url import make_database
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.origin import repository_name
from magnus_peewee_store.runs.transfer import copy_runs
from magnus_peewee_store.scrub import names_secret, scrub_config, scrub_remote, scrub_urls

# Git remotes


@pytest.mark.parametrize(
    ("remote", "clean"),
    [
        ("https://gitlab-ci-token:TOKEN@git.example.com/team/sales.git", "https://git.example.com/team/sales.git"),
        ("https://TOKEN@github.com/team/sales", "https://github.com/team/sales"),
        ("https://x:TO@KEN@git.example.com:8443/team/sales.git", "https://git.example.com:8443/team/sales.git"),
        ("https://x:TO/KEN@git.example.com/team/sales.git", "https://git.example.com/team/sales.git"),
        ("https://x:TO?KEN@git.example.com/team/sales.git", "https://"),
        ("https://git.example.com/sales.git?private_token=TO@KEN", "https://git.example.com/sales.git"),
        ("https://git.example.com/sales.git#TOKEN", "https://git.example.com/sales.git"),
        ("x:TOKEN@git.example.com:team/sales.git", "git.example.com:team/sales.git"),
        ("git@github.com:team/sales.git", "git@github.com:team/sales.git"),
        ("ssh://git@github.com:22/team/sales.git", "ssh://git@github.com:22/team/sales.git"),
        ("/srv/git/a@b/sales.git", "/srv/git/a@b/sales.git"),
        ("../sales.git", "../sales.git"),
        ("", ""),
    ],
)
def test_scrub_remote(remote: str, clean: str) -> None:
    assert scrub_remote(remote) == clean
    assert scrub_remote(clean) == clean
    assert "TO" not in repository_name(remote) and "KEN" not in repository_name(remote)


@pytest.mark.parametrize("unit", ["@", ":", "/", "://", "a", "?", "${", ".git"])
def test_long_text_is_scrubbed_in_linear_time(unit: str) -> None:
    started = time.process_time()
    for text in (unit * 300_000, "https://" + unit * 300_000):
        scrub_remote(text)
        scrub_urls(text)
        repository_name(text)
    assert time.process_time() - started < 20  # A quadratic search takes hours.


# Run configs


@pytest.mark.parametrize(
    "name",
    [
        "secret_key",
        "SecretKey",
        "aws_secret_access_key",
        "password",
        "PASSWD",
        "db-password",
        "token",
        "apitoken",
        "MAGNUS_VAR_apitoken",
        "privateToken",
        "api_key",
        "API key",
        "apiKey",
        "X-Api-Key",
        "credentials",
        "Passphrase",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name)
    assert scrub_config({"catalog_handler": {"deep": [{name: "TOKEN"}]}}) == {
        "catalog_handler": {"deep": [{name: "***"}]}
    }


@pytest.mark.parametrize("name", ["key", "tokenizer", "tokenization", "path", "keyboard", "monkey", "pwd"])
def test_other_names_are_kept(name: str) -> None:
    assert scrub_config({"variables": {name: "plain"}}) == {"variables": {name: "plain"}}


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ({"token": ["TOKEN", {"a": 12}]}, {"token": ["***", {"a": "***"}]}),
        ({"use_token": True, "token": None, "secret": ""}, {"use_token": True, "token": None, "secret": ""}),
        ({"password": "${password}"}, {"password": "${password}"}),
        ("https://user:TOKEN@s3.example.com/bucket", "https://***@s3.example.com/bucket"),
        ("https://user:${password}@s3.example.com/", "https://***@s3.example.com/"),
        ("https://${user}:${password}@s3.example.com/", "https://${user}:${password}@s3.example.com/"),
        ("curl 'https://TOKEN@a/x' https://b/?api_key=TOKEN&x=1", "curl 'https://***@a/x' https://b/?api_key=***&x=1"),
        ("https://user:TO/KEN@h/x", "https://***@h/x"),
        ("https://example.com/a?mail=a@b", "https://example.com/a?mail=a@b"),
        ({"connection_string": "postgresql://scott:TOKEN@h/db"}, {"connection_string": "postgresql://scott:***@h/db"}),
        ({"connection_string": "host=h password=TOKEN"}, {"connection_string": "***"}),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        (["a@b", 1, 2.5, None], ["a@b", 1, 2.5, None]),
    ],
)
def test_scrub_value(value: Any, clean: Any) -> None:
    assert scrub_config({"x": value}) == {"x": clean}
    assert scrub_config({"x": clean}) == {"x": clean}


def test_secrets_handler_keeps_its_name_only() -> None:
    handler = {"service_name": "vault", "values": ["TOKEN"]}
    assert scrub_config({"secrets_handler": handler}) == {"secrets_handler": {"service_name": "vault"}}
    assert scrub_config({"secrets_handler": "TOKEN"}) == {}


def test_values_of_the_caller_are_unchanged(sqlite_file: SqliteFile) -> None:
    run_log = run_with("TOKEN", "run")
    before = run_log.model_dump()
    with contextlib.closing(DBStore(connection_string=sqlite_file.url)) as store:
        store.put_run_log(run_log)
    assert run_log.model_dump() == before


def test_parameters_are_stored_as_they_are(sqlite_file: SqliteFile) -> None:
    with contextlib.closing(DBStore(connection_string=sqlite_file.url)) as store:
        store.create_run_log("run")
        store.set_parameters("run", {"api_token": "https://a:b@c"})
        assert store.get_parameters("run") == {"api_token": "https://a:b@c"}


def test_unreadable_row_is_copied_without_user_information(tmp_path: Path) -> None:
    source, target = (DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("a", "b"))
    source.create_run_log("run")
    source.table.upsert("run", [("Step", "broken", '{"url": "https://x:TOKEN@h/x", ')])
    list(copy_runs(source, target, ["run"]))
    assert target.table.read("run", ("Step",)) == [("Step", "broken", '{"url": "https://***@h/x", ')]
    source.close()
    target.close()


# Short secrets in messages


@pytest.mark.parametrize("password", ["a", "e", "1", "db", "to"])
def test_short_password_does_not_garble_messages(password: str) -> None:
    messages = set()
    for each in (password, "krakenbait"):
        database = make_database("mysql://scott:${password}@127.0.0.1:1/db", {"password": each}.__getitem__, 0)
        with pytest.raises(peewee.OperationalError) as exc_info:
            database.connect()
        messages.add(str(exc_info.value))
        quoted = f'bad option "{each}" in password={each} of mysql://scott:{each}@h'
        assert database.mask(quoted) == 'bad option "***" in password=*** of mysql://scott:***@h'
    assert len(messages) == 1 and "***" not in messages.pop()


# Every way out

TOKENS = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789-_.~", min_size=6, max_size=30).map(
    lambda text: f"Zq{text}qZ"
)
COMMANDS = """
create-tables
create-views
check
check --json
runs
runs --json
runs --csv
runs --params --metrics --columns run_id,status,project,pipeline,user,host,tag
show old
show old --json
show old --step load
show new --json
logs old
timeline old -o old.html
timeline old -o old.svg
diff old new
diff old new --json
lineage nothing.csv
lineage nothing.csv --json
plot loss old
which
report -o report
tag old kept
note old text
untag old kept
mark-failed unfinished --yes
export --all -o files
import import.json
show imported --json
copy --to sqlite:///copy.db --verify
delete imported --yes
prune --keep 0 --yes
""".strip().splitlines()


def test_every_command_is_tried() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(cli.COMMANDS)


def run_with(token: str, run_id: str) -> RunLog:
    """Return a run with a token in each place where magnus, a service or a person may put one."""
    run_log = sample_run(run_id)
    for number, step in enumerate(steps_of(run_log)):
        remotes = [f"https://ci:{token}@git.example.com/team/sales.git", f"https://{token}@git.example.com/sales"]
        remotes += [f"https://git.example.com/sales?private_token={token}", f"x:{token}@git.example.com:sales"]
        remote = remotes[number % len(remotes)]
        step.code_identities = [CodeIdentity(code_identifier="1b9f", code_identifier_url=remote)]
    run_log.run_config = {
        "pipeline_file": "pipeline.yaml",
        "catalog_handler": {"secret_key": token, "endpoint": f"https://user:{token}@s3.example.com"},
        "variables": {"MAGNUS_VAR_apitoken": token, "proxy": f"http://{token}@proxy:3128"},
        "secrets_handler": {"service_name": "vault", "cache": {"all": [token]}},
        "run_log_store": {"service_name": "sql", "connection_string": f"postgresql://scott:{token}@h/db"},
        "executor": {"options": [{"Credentials": {"a": token}}, {"password": token}, f"https://h/?api_key={token}"]},
    }
    return run_log


@contextlib.contextmanager
def log_lines() -> Iterator[List[str]]:
    """Collect all that the package logs."""
    lines: List[str] = []
    logger = logging.getLogger("magnus")
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def unmasked_rows(run_log: RunLog) -> List[fragments.Fragment]:
    """Return the rows of a run as a version of this package wrote them that did not mask them."""
    header = json.dumps(run_log.model_dump(exclude={"steps", "parameters"}))
    steps = {step.internal_name: json.dumps(step.model_dump(exclude={"branches"})) for step in steps_of(run_log)}
    return [
        fragments.Fragment("RunLog", "run_log", header),
        *(fragments.Fragment("Step", name, value) for name, value in steps.items()),
    ]


@settings(max_examples=4, phases=[Phase.generate])  # Shrinking would take minutes.
@given(token=TOKENS)
def test_token_occurs_nowhere(token: str) -> None:
    runner = CliRunner()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(name)
        lines = stack.enter_context(log_lines())
        create_tables("sqlite:///runs.db")
        store = open_store(connection_string="sqlite:///runs.db")
        store.put_run_log(run_with(token, "new"))
        store.set_run_config("new", run_with(token, "new").run_config)
        store.add_step_log(next(iter(run_with(token, "new").steps.values())), "new")
        store.create_run_log("unfinished")
        assert token not in str(store.table.read("new"))
        store.table.upsert("old", unmasked_rows(run_with(token, "old")))
        assert (
            token not in str(runs.read_run(store, "old")) + store.get_run_log_by_id("old", full=True).model_dump_json()
        )
        assert token not in str(store.get_step_log(next(iter(run_with(token, "old").steps)), "old"))
        Path("import.json").write_text(run_with(token, "imported").model_dump_json(), encoding="utf-8")
        for line in COMMANDS:
            for url in ("sqlite:///runs.db", f"mysql://scott:${token}@127.0.0.1:1/db?x={token}"):
                arguments = [*line.split(), "--connection-string", url, "--retry-timeout", "0"]
                result = runner.invoke(cli.db, arguments)
                assert token not in result.output and token[4:] not in result.output, arguments
                assert result.exception is None or isinstance(result.exception, SystemExit), arguments
                assert result.exit_code == 0 or "mysql" in url or line.split()[0] in ("logs", "lineage"), result.output
            if line.startswith("import"):
                Path("import.json").unlink()
        store.close()
        for path in Path(name).rglob("*"):
            if path.is_file() and not path.name.startswith("runs.db"):
                assert token.encode() not in path.read_bytes(), path
        assert token not in "\n".join(lines) and token[4:] not in "\n".join(lines)
