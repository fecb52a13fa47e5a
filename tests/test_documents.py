"""Test README.md, CONTRIBUTING.md and docs/*.md: run their commands, and check that what they name exists."""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List
from urllib.parse import unquote

import click
import documents
import pytest
from certificates import use_tls
from conftest import Project, new_server
from magnus.datastore import StepLog
from servers import OWNER, PASSWORD, SYSTEM, Server

from magnus_peewee_store import DBStore, cli, create_tables, runs

EXAMPLES = documents.ROOT / "examples"
TESTS = documents.ROOT / "tests"
ALL_BLOCKS = [block for path in documents.PATHS for block in documents.find_blocks(path)]
TEST_NAMES = sorted(
    {name for path in documents.PATHS for name in re.findall(r"`(test_\w+\.py(?:::\w+)?)`", path.read_text("utf-8"))}
)
SCHEMES = {"postgresql": "postgresql", "mariadb": "mysql"}
EXECUTE = ("magnus", "execute", "-f", "pipeline.yaml", "-c", "config.yaml")


# What the documents say about themselves


@pytest.mark.parametrize("path", documents.PATHS, ids=lambda path: path.name)
def test_every_code_block_has_a_mark(path: Path) -> None:
    unmarked = [
        block.text for block in documents.find_blocks(path) if block.language in documents.LANGUAGES and not block.kind
    ]
    assert not unmarked


def test_every_mark_is_used() -> None:
    tests = "".join(path.read_text("utf-8") for path in TESTS.glob("test_*.py"))
    ci = (documents.ROOT / ".ci" / "run").read_text("utf-8")
    assert all(f'"{block.name}"' in tests for block in ALL_BLOCKS if block.kind == "test")
    assert all(f"readme {block.name})" in ci for block in ALL_BLOCKS if block.kind == "ci")


@pytest.mark.parametrize("name", TEST_NAMES)
def test_named_tests_exist(name: str) -> None:
    file, _, function = name.partition("::")
    assert f"def {function or 'test_'}" in (TESTS / file).read_text("utf-8")


@pytest.mark.parametrize("path", documents.PATHS, ids=lambda path: path.name)
def test_links_between_files_work(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(((?!https?://)[^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = (path.parent / unquote(file)) if file else path
        assert linked.exists(), target
        assert not anchor or anchor in documents.headings(linked), target


def test_contributing_lists_every_module() -> None:
    text = (documents.ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = text.partition("| module | job |\n")[2].partition("\n\n")[0]
    named = {name.rstrip("/") for row in table.splitlines() for name in re.findall(r"`([\w/]+)`", row.split("|")[1])}
    package = documents.ROOT / "magnus_peewee_store"
    parts = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {name.partition("/")[0] for name in named} == parts - {"__init__"}
    assert all((package / name).is_dir() or (package / f"{name}.py").exists() for name in named)


def test_install_commands_work_from_a_clone() -> None:
    """The package is not on an index yet."""
    text = "".join(path.read_text("utf-8") for path in documents.PATHS)
    assert "install magnus-peewee-store" not in text and "install 'magnus-peewee-store" not in text
    named = {extra for extras in re.findall(r"'\.\[([\w,]+)\]'", text) for extra in extras.split(",")}
    setup = (documents.ROOT / "setup.py").read_text("utf-8")
    assert named and all(f'"{extra}": ' in setup for extra in named)


def test_readme_is_short() -> None:
    assert len((documents.ROOT / "README.md").read_bytes()) <= 9000


def test_readme_lists_every_page() -> None:
    text = (documents.ROOT / "README.md").read_text("utf-8")
    pages = [path.name for path in (documents.ROOT / "docs").glob("*.md") if path.name != "index.md"]
    assert [page for page in pages if f"](docs/{page})" not in text] == []


# Commands, scripts and transcripts


def without_varying_parts(line: str) -> str:
    """Replace times, durations, versions and sizes, which differ from run to run."""
    line = re.sub(r"\d+(\.\d+)?m?s\b|\d+m \d\ds", "TOOK", line)
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "STARTED", line)
    # One heartbeat per process: the number of processes depends on the machine.
    line = re.sub(r"\d+ \((\d+ Branch, \d+ Environment), \d+ Heartbeat", r"ROWS (\1, N Heartbeat", line)
    line = re.sub(r"Python [\d.]+, magnus [\d.]+", "ENVIRONMENT", line)
    line = re.sub(r"^project \S+$", "project PROJECT", line)
    line = re.sub(r" by \S+ on \S+$", " by USER on HOST", line)
    line = re.sub(r"each shop\.[\w-]+\.csv\.evaluate\s*$", "FAILED STEP", line)  # the first of the parallel branches
    line = re.sub(r"SQLite [\d.]+|[\d.]+ kB", "N", line)
    return re.sub(r"  +", "  ", line).rstrip()


def check_transcript(project: Project, transcript: str) -> None:
    """Run each command of a console block, and compare its output. `...` stands for the rest of it."""
    for part in transcript.split("$ ")[1:]:
        command, *lines = part.splitlines()
        printed = [without_varying_parts(line) for line in project.run(*shlex.split(command)).splitlines()]
        expected = [without_varying_parts(line) for line in lines]
        if expected and expected[-1] == "...":
            expected.pop()
            del printed[len(expected) :]
        assert printed == expected, command


def check_blocks(project: Project, blocks: List[documents.Block]) -> None:
    """Run blocks in their order. A `text` block is the expected output of the block before it."""
    output = ""
    for block in blocks:
        if block.language == "console":
            check_transcript(project, block.text)
        elif block.language == "python":
            output = project.python("-c", block.text)
        elif block.language == "text":
            assert output == block.text
        else:
            assert block.language == "sh"
            output = project.run("/bin/bash", "-euc", block.text)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with the files of examples/, whose commands are those of this environment."""
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    for file in EXAMPLES.glob("*.*"):  # without the runs of a user who tried the examples in place
        if file.is_file():
            shutil.copy(str(file), str(project.folder))
    project.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), SYSTEM.environment["PATH"]])
    project.environment["PYTHONWARNINGS"] = "ignore"
    return project


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the examples three times, as README.md says; return the project's folder."""
    template = Project(tmp_path_factory.mktemp("three-runs") / "project")
    shutil.copytree(EXAMPLES, template.folder, ignore=shutil.ignore_patterns("data", ".*", "*.out", "__pycache__"))
    for run_id, days in (("calm-hoover", 90), ("keen-curie", 60), ("odd-lamarr", 5)):
        template.write(parameters_yaml={"days": days})
        tag = ["--tag", "nightly"] if days > 5 else []
        template.run(*EXECUTE, "-p", "parameters.yaml", "--run-id", run_id, *tag, fails=days == 5)
    return template.folder


@pytest.fixture
def with_runs(project: Project, three_runs: Path) -> Project:
    """Return a project that has the three runs."""
    shutil.rmtree(str(project.folder))
    shutil.copytree(three_runs, project.folder)
    return project


@pytest.mark.parametrize("path", ["README.md", "docs/commands.md", "docs/searching.md"])
def test_commands_print_what_the_page_shows(with_runs: Project, path: str) -> None:
    check_blocks(with_runs, [block for block in documents.blocks("console") if block.path == documents.ROOT / path])


def test_search_in_python(with_runs: Project) -> None:
    assert with_runs.python("-c", documents.block("search")).splitlines() == [
        "keen-curie 60 20.85",
        "calm-hoover 90 23.66",
    ]


def test_views_answer_in_sql(with_runs: Project) -> None:
    with_runs.magnus("db", "create-views")
    with contextlib.closing(sqlite3.connect(str(with_runs.folder / ".run_log_store" / "run_log.db"))) as connection:
        statements = documents.block("views").split(";")[:-1]
        assert [len(connection.execute(each).fetchall()) for each in statements] == [6, 1, 6]


def test_getting_started(project: Project) -> None:
    check_blocks(project, documents.blocks("getting-started"))


def test_python_api(with_runs: Project) -> None:
    check_blocks(with_runs, documents.blocks("python-api"))


def test_create_tables_can_be_repeated(project: Project) -> None:
    blocks = documents.blocks("create-tables")
    check_blocks(project, [*blocks, *blocks])
    assert (project.folder / "runs.db").stat().st_size


def test_query(with_runs: Project) -> None:
    connection = sqlite3.connect(str(with_runs.folder / ".run_log_store" / "run_log.db"))
    rows = connection.execute(documents.block("query")).fetchall()
    connection.close()
    assert rows[0][:2] == ("calm-hoover", "collect")


def run_ids(project: Project, file: str) -> List[str]:
    store = DBStore(connection_string=f"sqlite:///{project.folder / file}")
    try:
        return sorted(run_id for run_id, _ in store.table.runs(("RunLog",)))
    finally:
        store.close()


def test_copies_hold_every_run(with_runs: Project) -> None:
    check_blocks(with_runs, documents.blocks("copy"))
    assert run_ids(with_runs, "restored.db") == ["calm-hoover", "keen-curie", "odd-lamarr"]


@pytest.mark.parametrize("name", ["annotations", "retention"])
def test_commands_on_runs(with_runs: Project, name: str) -> None:
    (with_runs.folder / ".catalog").mkdir(exist_ok=True)
    check_blocks(with_runs, documents.blocks(name))
    assert len(run_ids(with_runs, ".run_log_store/run_log.db")) == 3


def test_scheduled_run_has_an_id_with_the_date(project: Project) -> None:
    check_blocks(project, documents.blocks("scheduled"))
    [run_id] = run_ids(project, ".run_log_store/run_log.db")
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d-\d{4}", run_id)


def test_sqlite_backup(with_runs: Project) -> None:
    check_blocks(with_runs, documents.blocks("sqlite-backup"))
    assert run_ids(with_runs, "backup.db") == ["calm-hoover", "keen-curie", "odd-lamarr"]
    (with_runs.folder / ".run_log_store" / "run_log.db").unlink()
    with_runs.magnus(*documents.blocks("sqlite-backup")[0].text.split()[1:], fails=True)
    assert run_ids(with_runs, "backup.db") == ["calm-hoover", "keen-curie", "odd-lamarr"]


def test_contributing(project: Project) -> None:
    project.folder = documents.ROOT
    check_blocks(project, documents.blocks("contributing"))


@pytest.mark.parametrize("module", ["magnus_peewee_store.db", "magnus_peewee_store.runs", "magnus_peewee_store.store"])
def test_examples_in_docstrings(module: str) -> None:
    imported = importlib.import_module(module)
    names = {**vars(imported)}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner()
    for value in names.values():  # also those that the module only re-exports
        if str(getattr(value, "__module__", "")).startswith("magnus_peewee_store"):
            for test in finder.find(value, getattr(value, "__name__", "example"), globs=names.copy()):
                runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", list(cli.db.commands))
def test_examples_in_help_are_valid_commands(name: str) -> None:
    command = cli.db.commands[name]
    lines = (command.help or "").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith("magnus db ")]
    assert examples
    for example in examples:
        _, _, called, *arguments = shlex.split(example)
        with click.Context(cli.db, info_name="db") as parent:
            assert called == name
            command.make_context(name, arguments, parent=parent)


def strings_in_code() -> List[str]:
    """Return the package's string literals; `...` stands for what is filled in."""

    def text(node: ast.AST) -> str:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in parts)  # type: ignore

    found = []
    for path in (documents.ROOT / "magnus_peewee_store").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                found.append(text(node))
    return found


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    text = (documents.ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    table = text.partition("## Messages of the store")[2].partition("\n## ")[0]
    code = "\n".join(strings_in_code())
    code = re.sub(r"%[gs]", "...", code)
    for message in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE):
        parts = [part.strip() for part in message.replace("db_log", "...").split("...") if part.strip()]
        assert parts and all(part in code for part in parts), message


# Configurations


@pytest.mark.parametrize("block", documents.blocks("config"), ids=lambda block: block.path.stem)
def test_configurations_with_sqlite(project: Project, block: documents.Block) -> None:
    project.write(config_yaml=block.text)
    project.execute("a-run", "-p", "parameters.yaml")
    assert run_ids(project, "runs.db") == ["a-run"]


def test_commands_of_the_readme_follow_from_each_other(project: Project) -> None:
    steps = {"done": {"type": "success"}, "fail": {"type": "fail"}}
    for file in project.folder.iterdir():
        file.unlink()
    project.write(pipeline_yaml={"dag": {"start_at": "done", "steps": steps}})
    (project.folder / "magnus-config.yaml").write_text(documents.block("readme-config"))
    output = project.run("/bin/bash", "-euc", documents.block("readme-commands"))
    assert "SUCCESS" in output.partition("RUN ")[2] and "pipeline pipeline.yaml" in output
    assert run_ids(project, "runs.db")


def test_configuration_of_a_project(project: Project) -> None:
    (project.folder / "magnus-config.yaml").write_text(documents.block("project-config"))
    project.magnus("execute", "-f", "pipeline.yaml", "-p", "parameters.yaml", "--run-id", "a-run")
    assert run_ids(project, ".run_log_store/run_log.db") == ["a-run"]


def check_configuration(
    project: Project, config: str, url: str, secret: str = f"password={PASSWORD}", run_id: str = "a-run"
) -> None:
    """Run a pipeline with a configuration and a secret, and find its run in the database of a URL."""
    project.write(config_yaml=config)
    (project.folder / ".env").write_text(f"{secret}\n")
    name, _, value = secret.partition("=")
    project.environment[name] = value
    assert PASSWORD not in project.execute(run_id, "-p", "parameters.yaml")
    store = DBStore(connection_string=url)
    try:
        assert store.get_run_log_by_id(run_id).status == "SUCCESS"
    finally:
        store.close()


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def test_secrets_in_the_connection_string(project: Project, server_databases: Callable[[str], Any]) -> None:
    database = server_databases("postgresql+psycopg")
    address = f"127.0.0.1:{database.server.port}/{database.name}"
    try:
        config = replaced(documents.block("secret-password"), "localhost:5432/mydatabase", address)
        assert (OWNER, PASSWORD) == ("scott", "tiger")
        check_configuration(project, config, database.url)
        check_configuration(project, documents.block("secret-dsn"), database.url, f"dsn={database.url}", "another-run")
    finally:
        database.sql("DROP TABLE IF EXISTS db_log")


# Servers


@contextlib.contextmanager
def own_server(kind: str, **settings: str) -> Iterator[Server]:
    server = new_server(kind, **settings)
    try:
        yield server
    finally:
        server.remove()


def run_sql(server: Server, name: str, **options: Any) -> None:
    """Run the SQL of a block, as the administrator."""
    for statement in documents.block(name).split(";"):
        if statement.strip():
            server.sql(statement, **options)


BLOCKS = {
    "postgresql": ("postgresql", "postgresql-least", "postgresql-more"),
    "mariadb": ("mariadb", "mariadb-least", "mariadb-more"),
}


@pytest.mark.parametrize("kind", SCHEMES)
def test_roles_have_the_rights_that_they_need(project: Project, kind: str) -> None:
    one_role, *other_roles = BLOCKS[kind]
    with own_server(kind) as server:

        def url(role: str, password: str) -> str:
            return f"{SCHEMES[kind]}://{role}:{password}@127.0.0.1:{server.port}/run_logs"

        run_sql(server, one_role)
        create_tables(url("magnus", "choose-one"))
        for name in other_roles:
            run_sql(server, name, database="run_logs")
        for role, password in (("magnus", "choose-one"), ("pipelines", "choose-another")):
            store = DBStore(connection_string=url(role, password))
            store.create_run_log(role)
            store.set_parameters(role, {"x": 1, "y": 2})
            store.add_step_log(StepLog(name="a", internal_name="a"), role)
            store.add_step_log(StepLog(name="a", internal_name="a", status="SUCCESS"), role)
            store.update_run_log_status(role, "SUCCESS")
            assert store.get_run_log_by_id(role, full=True).steps["a"].status == "SUCCESS"
            store.close()

        dashboard = DBStore(connection_string=url("dashboard", "choose-a-fourth"))
        assert len(runs.list_runs(dashboard)) == 2
        owner = DBStore(connection_string=url("magnus", "choose-one"))
        for _ in range(2):  # The second time replaces the views.
            runs.create_views(owner)
        owner.close()
        for view in ("run_summary", "run_steps", "run_metrics", "run_params"):
            assert dashboard.database.execute_sql(f"SELECT * FROM {view}").fetchall() is not None
        dashboard.close()
        project.magnus("db", "runs", "--connection-string", url("dashboard", "choose-a-fourth"))
        caretaker = ("--yes", "--connection-string", url("caretaker", "choose-a-third"))
        project.magnus("db", "delete", "pipelines", *caretaker)
        project.magnus("db", "prune", "--keep", "0", *caretaker)
        assert server.sql("SELECT COUNT(*) FROM db_log", database="run_logs") == [(0,)]


@pytest.mark.parametrize("kind", SCHEMES)
def test_tls_checks_the_server(project: Project, certificates: Path, kind: str) -> None:
    name, port = {"postgresql": ("postgresql-tls", 5432), "mariadb": ("mariadb-tls", 3306)}[kind]
    config = documents.block(name)
    with own_server(kind) as server:
        database = server.database(SCHEMES[kind])
        use_tls(server, certificates)
        config = replaced(config, f"magnus:${{password}}@db.example.com:{port}/run_logs", "ADDRESS")
        config = replaced(config, "/etc/ssl/db-ca.pem", str(certificates / "ca.pem"))
        address = f"{OWNER}:${{password}}@{{host}}:{server.port}/{database.name}"
        good = config.replace("ADDRESS", address.replace("{host}", "localhost"))
        query = re.search(r"\?[^']+", good)
        assert query
        check_configuration(project, good, database.url.replace("127.0.0.1", "localhost") + query[0])

        # The certificate is for localhost: with another name, or another authority, there is no connection.
        other_host = config.replace("ADDRESS", address.replace("{host}", "127.0.0.1"))
        other_authority = good.replace(str(certificates / "ca.pem"), str(certificates / "server.pem"))
        for wrong in (other_host, other_authority):
            project.write(config_yaml=f"{wrong.rstrip()}\n    retry_timeout: 0\n")
            assert "certificate" in project.execute("refused", "-p", "parameters.yaml", fails=True).lower()


def test_failover_finds_the_host_that_accepts_writes(project: Project) -> None:
    with own_server("postgresql") as server, own_server("postgresql") as other:
        database = server.database("postgresql")
        dead_port = other.port
        other.stop()
        config = replaced(documents.block("postgresql-failover"), "db1:5432", f"127.0.0.1:{dead_port}")
        config = replaced(config, "db2:5432/run_logs", f"127.0.0.1:{server.port}/{database.name}")
        check_configuration(project, replaced(config, "magnus:", f"{OWNER}:"), database.url)


@pytest.mark.parametrize("kind", SCHEMES)
def test_backup_and_restore(project: Project, kind: str) -> None:
    name = {"postgresql": "postgresql-backup", "mariadb": "mariadb-backup"}[kind]
    with own_server(kind) as server:
        run_sql(server, {"postgresql": "postgresql", "mariadb": "mariadb"}[kind])
        url = f"{SCHEMES[kind]}://magnus:choose-one@127.0.0.1:{server.port}/run_logs"
        store = DBStore(connection_string=url)
        store.create_run_log("a-run")
        store.close()
        (project.folder / ".my.cnf").write_text(f"[client]\nsocket={server.folder}/socket\nuser=root\n")
        connection = {"PGHOST": str(server.folder), "PGPORT": str(server.port), "PGUSER": "postgres"}
        project.environment.update(connection, HOME=str(project.folder))
        check_blocks(project, documents.blocks(name))
        if kind == "mariadb":
            server.sql("GRANT ALL ON run_logs_restored.* TO 'magnus'@'%'")
        store = DBStore(connection_string=f"{url}_restored")
        assert store.get_run_log_by_id("a-run").run_id == "a-run"
        store.create_run_log("another-run")  # the sequence was restored, too
        store.close()


def test_generated_references_are_current() -> None:
    specification = importlib.util.spec_from_file_location("generate", documents.ROOT / "docs" / "generate.py")
    assert specification and specification.loader
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    for page, content in generate.pages().items():
        assert page.read_text(encoding="utf-8") == content, "Run: python docs/generate.py"
