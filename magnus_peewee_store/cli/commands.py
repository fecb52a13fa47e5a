"""`magnus db`: commands to see the runs of a database, and to look after them."""

import contextlib
import functools
import json
import logging
import os
import re
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import click
import peewee
from magnus import context, defaults, exceptions, utils
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import SegmentLines
from ruamel.yaml.error import YAMLError

from magnus_peewee_store import fragments, runs, transfer, upkeep, views
from magnus_peewee_store.connection import ConnectionStringError
from magnus_peewee_store.db import TABLE
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.timeline import to_html, to_svg

CONNECTION_STRING = "MAGNUS_DB_CONNECTION_STRING"  # the environment variable
EXPLAINED = (
    ConnectionStringError,
    OSError,
    exceptions.RunLogNotFoundError,
    peewee.PeeweeException,
    UnicodeError,
)
DATABASE = "magnus_peewee_store.database"  # in click's context: which database it is, and who says so
INTERRUPTED = 130
POLL_SECONDS = 0.5
SHOWN = 10  # of the runs that are to be deleted
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

T = TypeVar("T")


class Commands(click.Group):
    """Commands in the order they are defined in, whose errors are sentences."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        """List the commands.

        Args:
            ctx: Click's context.

        Returns:
            Their names.
        """
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Args:
            ctx: Click's context.

        Returns:
            What it returns.

        Raises:
            click.ClickException: If something is wrong that the user can know of.
        """
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
            return answer
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever reads has read enough. Python's own flush at the exit is not to complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except EXPLAINED as error:
            raise click.ClickException(_sentence(error, *ctx.meta.get(DATABASE, ("", "")))) from None


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """How long ago: `90s`, `15m`, `12h`, `2d` or `1w`."""

    name = "age"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> timedelta:
        """Read an age.

        Args:
            value: What the user wrote.
            param: The parameter.
            ctx: Click's context.

        Returns:
            The age.
        """
        parts = re.fullmatch(r"(\d+)([smhdw])", value.strip())
        if parts:
            try:
                age = timedelta(**{UNITS[parts[2]]: int(parts[1])})
                datetime.now(timezone.utc) - age
                return age
            except OverflowError:
                pass
        return self.fail(f"'{value}' is not an age. Write 90s, 15m, 12h, 2d or 1w.", param, ctx)


class When(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time: an age, or a date and time in ISO 8601; without a time zone it is local time."""

    name = "when"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> datetime:
        """Read a time.

        Args:
            value: What the user wrote.
            param: The parameter.
            ctx: Click's context.

        Returns:
            The time.
        """
        try:
            return datetime.fromisoformat(value).astimezone()
        except (OSError, OverflowError, ValueError):
            pass
        try:
            return datetime.now(timezone.utc) - Age().convert(value, param, ctx)
        except click.BadParameter:
            return self.fail(f"'{value}' is no time. Write 2d (or s, m, h, w) or 2024-01-31T09:00.", param, ctx)


@click.group(cls=Commands)
def db() -> None:
    """See the runs in a database, and look after them.

    Each command finds the database as a pipeline does: in the file given by -c, as magnus execute takes it; or it is
    given by --connection-string. Without either, it is that of the project's magnus-config.yaml; that of the
    environment variable MAGNUS_DB_CONNECTION_STRING; or the default, the SQLite file .run_log_store/run_log.db.
    """
    for handler in logging.getLogger(defaults.LOGGER_NAME).handlers:
        if isinstance(handler, RichHandler):
            handler.console = Console(stderr=True)  # magnus' own is in the way of whoever reads the JSON.


def on_database(makes: bool = False) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command the store on the database that its user names, and the options to name it.

    Args:
        makes: Whether the command makes the database and the table where they are missing.

    Returns:
        The decorator.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @click.option("-c", "--config-file", metavar="FILE", help="The configuration, as magnus execute takes it.")
        @click.option("--connection-string", metavar="URL", help="The database, without a configuration.")
        @functools.wraps(command)
        def wrapped(config_file: Optional[str], connection_string: Optional[str], **options: Any) -> T:
            store = _open(config_file, connection_string)
            if not makes:
                _check_there(store)
            return command(store, **options)

        return wrapped

    return decorate


def as_json(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the option --json.

    Args:
        command: The command.

    Returns:
        The command.
    """
    return click.option("--json", "is_json", is_flag=True, help="Write JSON.")(command)


@db.command("create-tables")
@on_database(makes=True)
def create_tables(store: DBStore) -> None:
    """Make the table, or complete it. It can be repeated.

    \b
    Example:
      magnus db create-tables -c config.yaml
    """
    made = store.table.create()
    for line in made:
        click.echo(f"Made {line}.")
    if not made:
        click.echo("Nothing was missing.")


@db.command()
@on_database()
@as_json
def check(store: DBStore, is_json: bool) -> None:
    """Look whether all is well: the connection, the table and each of its rows.

    The exit status is 0 only if it is.

    \b
    Example:
      magnus db check
    """
    with _progress("rows", None) as bar:
        found = upkeep.check(store, bar)
    if is_json:
        _echo_json(found)
    else:
        views.console().print(views.check_table(found))
        advice = "All is well."
        if found["duplicates"]:
            advice = "Of rows that agree in run_id, attribute_type and attribute_key, keep the newest; delete the rest."
        elif found["missing"]:
            advice = "Run magnus db create-tables."
        elif not found["well"]:
            advice = "What can be read of these runs is shown; magnus db delete removes a run."
        click.echo(advice)
    if not found["well"]:
        click.get_current_context().exit(1)


@db.command("runs")
@click.option("--status", help="Only runs of this status, such as FAIL.")
@click.option("--tag", help="Only runs with this tag.")
@click.option("--since", type=When(), help="Only runs that started since: 2d (or s, m, h, w), or 2024-01-31T09:00.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many runs.")
@on_database()
@as_json
def list_runs(
    store: DBStore, status: Optional[str], tag: Optional[str], since: Optional[datetime], limit: int, is_json: bool
) -> None:
    """List the newest runs.

    STEPS are those done, of those that have begun.

    \b
    Example:
      magnus db runs --status FAIL --since 2d
    """
    found = runs.list_runs(store, status=(status or "").upper(), tag=tag or "", since=since, limit=limit)
    if is_json:
        _echo_json(found)
    elif found:
        console = views.console()
        console.print(views.runs_table(found, console.width))
    else:
        click.echo("No run is like that." if status or tag or since else "There are no runs yet.", err=True)
    for run in found:
        for row in run["unreadable"]:
            click.echo(views.clean(f"Cannot read {row} of {run['run_id']}"), err=True)


@db.command()
@click.argument("run_id")
@click.option("--step", metavar="NAME", help="Only this step, with all that is known of it.")
@click.option("--follow", is_flag=True, help="Go on until the run has ended; the exit status is 0 if it succeeded.")
@on_database()
@as_json
def show(store: DBStore, run_id: str, step: Optional[str], follow: bool, is_json: bool) -> None:
    """Show one run as a tree of its steps. Its id may be shortened.

    \b
    Example:
      magnus db show calm-hoover --follow
    """
    if follow and (is_json or step):
        raise click.UsageError("--follow shows the whole run as a tree: leave out --json and --step.")
    if follow:
        _follow(store, runs.find_run(store, run_id))
        return
    run = runs.read_run(store, run_id)
    console = views.console()
    if step:
        chosen = _step(run, step)
        if is_json:
            click.echo(json.dumps(chosen.model_dump(), indent=4))
        else:
            console.print(views.step_tree(chosen))
    elif is_json:
        click.echo(json.dumps(run.run_log.model_dump(), indent=4))
    else:
        console.print(views.run_tree(run, whole=not console.is_terminal))
    _echo_unreadable(run)


@db.command()
@click.argument("run_id")
@click.option(
    "-o", "--output", metavar="FILE", required=True, help="Where to write it: a file that ends in .html or .svg."
)
@on_database()
def timeline(store: DBStore, run_id: str, output: str) -> None:
    """Draw one run as a picture: its steps over time.

    \b
    Example:
      magnus db timeline calm-hoover -o run.html
    """
    path = Path(output)
    draw = {".html": to_html, ".htm": to_html, ".svg": to_svg}.get(path.suffix.lower())
    if draw is None:
        raise click.UsageError(f"'{output}' ends in neither .html nor .svg.")
    run = runs.read_run(store, run_id)
    transfer.write_whole(path, draw(run.run_log))
    click.echo(f"Wrote {output}.")
    _echo_unreadable(run)


@db.command()
@click.argument("run_a")
@click.argument("run_b")
@on_database()
@as_json
def diff(store: DBStore, run_a: str, run_b: str, is_json: bool) -> None:
    """Show what differs between two runs: parameters, metrics, code version, and how their steps went.

    \b
    Example:
      magnus db diff calm-hoover keen-curie
    """
    pair = [runs.read_run(store, run_id) for run_id in (run_a, run_b)]
    a, b = (run.run_log for run in pair)
    differences = runs.diff(a, b)
    if is_json:
        _echo_json(differences)
    else:
        console = views.console()
        tree = views.diff_tree((a.run_id, b.run_id), differences, whole=not console.is_terminal)
        if tree.children:
            console.print(tree)
        else:
            click.echo("Nothing differs.")
    for run in pair:
        _echo_unreadable(run)


@db.command("export")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "is_all", is_flag=True, help="All runs.")
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder to write to.")
@on_database()
def export_runs(store: DBStore, run_ids: Tuple[str, ...], is_all: bool, output: str) -> None:
    """Write runs as JSON files that magnus' file-system store reads.

    \b
    Example:
      magnus db export calm-hoover -o exported
    """
    chosen = _chosen(store, run_ids, is_all)
    _carry_out(transfer.export_runs(store, chosen, Path(output)), len(chosen), "exported", "there")


@db.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@on_database(makes=True)
def import_runs(store: DBStore, paths: Tuple[str, ...]) -> None:
    """Read runs from the folders of file-system and chunked-fs stores, or from exported files, into the database.

    A run that is there is left as it is.

    \b
    Example:
      magnus db import .run_log_store
    """
    found = [each for path in paths for each in transfer.find_run_logs(Path(path))]
    _carry_out(transfer.import_runs(store, found), len(found), "imported", "there already")


@db.command("copy")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--to", required=True, metavar="URL", help="The connection string of the database to copy to.")
@on_database()
def copy_runs(store: DBStore, run_ids: Tuple[str, ...], to: str) -> None:
    """Copy all runs, or some, into another database. A run that is there is left as it is.

    \b
    Example:
      magnus db copy --to 'postgresql://magnus:${password}@db.example.com/run_logs'
    """
    target = _opened(DBStore(connection_string=to), "--to")
    if transfer.are_same(store.table.database, target.table.database):
        raise click.ClickException("--to names the database that the runs are in.")
    chosen = _chosen(store, run_ids, not run_ids)
    _carry_out(transfer.copy_runs(store, target, chosen), len(chosen), "copied", "there already")


@db.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def delete(store: DBStore, run_ids: Tuple[str, ...], yes: bool, dry_run: bool) -> None:
    """Delete runs, by their whole ids, after showing them and asking.

    \b
    Example:
      magnus db delete calm-hoover
    """
    # Not a shortened id: if its run is gone already, it may be the beginning of another's.
    there = [run_id for run_id in dict.fromkeys(run_ids) if store.table.has(run_id, runs.ANY_ROW)]
    gone = [run_id for run_id in run_ids if run_id not in there]
    for run_id in gone:
        click.echo(views.clean(f"There is no run '{run_id}'. It takes a whole id to delete a run."), err=True)
    if there or not gone:
        _delete(store, there, yes, dry_run)
    if gone:
        click.get_current_context().exit(1)


@db.command()
@click.option("--older-than", type=Age(), metavar="AGE", help="Only runs older than this, such as 90d (or s, m, h, w).")
@click.option("--keep", type=click.IntRange(min=0), metavar="COUNT", help="Never one of the newest so many.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def prune(store: DBStore, older_than: Optional[timedelta], keep: Optional[int], yes: bool, dry_run: bool) -> None:
    """Delete old runs, after showing them and asking. With both options a run goes only if both let it.

    A run that has not ended is left alone while it has a row younger than --older-than, or than a day.

    \b
    Example:
      magnus db prune --older-than 90d --keep 100
    """
    if older_than is None and keep is None:
        raise click.UsageError("Say which runs: --older-than AGE, --keep COUNT, or both.")
    with _progress("runs", None) as bar:
        found = upkeep.prunable(store, older_than, keep, bar)
    if found.running:
        click.echo(f"{_count(found.running)} left alone, not having ended: {_some(found.running)}", err=True)
    _delete(store, found.run_ids, yes, dry_run)


def _open(config_file: Optional[str], connection_string: Optional[str]) -> DBStore:
    """The store on the database that the user names, with the secrets handler of the same configuration."""
    if config_file and connection_string:
        raise click.UsageError("--config-file and --connection-string both name a database: give one.")
    project_file = defaults.USER_CONFIG_FILE
    project = _section(_load(project_file), "defaults", project_file) if os.path.exists(project_file) else {}
    config = _load(config_file) if config_file else {}

    # As magnus' own `prepare_configurations` does, but for what has nothing to do with run logs.
    secrets = config.get("secrets") or project.get("secrets") or defaults.DEFAULT_SECRETS
    kept_in, source = project.get("run_log_store"), project_file
    if config_file and config.get("run_log_store"):
        kept_in, source = config["run_log_store"], config_file
    kept_in = kept_in if isinstance(kept_in, dict) else {}
    is_db = kept_in.get("type") == "db"
    if config_file and not is_db:
        raise click.ClickException(
            f"{config_file} does not keep run logs in a database. It needs: run_log_store: {{type: db}}"
        )

    store_config: Dict[str, Any] = {}
    if connection_string:
        store_config, source = {"connection_string": connection_string}, "--connection-string"
    elif is_db:
        store_config = _section(kept_in, "config", source)
    elif os.environ.get(CONNECTION_STRING):
        store_config, source = {"connection_string": os.environ[CONNECTION_STRING]}, CONNECTION_STRING
    else:
        source = f"the default, for want of -c, --connection-string, {project_file} and {CONNECTION_STRING}"

    click_context = click.get_current_context()
    before = context.run_context
    context.run_context = context.Context.model_construct(secrets_handler=_secrets_handler(secrets))
    click_context.call_on_close(lambda: setattr(context, "run_context", before))
    store = _opened(DBStore(**store_config), source)
    click_context.meta[DATABASE] = store.table.database.shown, source
    return store


def _opened(store: DBStore, source: str) -> DBStore:
    try:
        store.table  # noqa: B018 - it asks the secrets handler
    except ConnectionStringError as error:
        raise click.ClickException(_sentence(error, str(error), source)) from None
    except Exception as error:  # A secrets handler raises what it likes.
        raise click.ClickException(
            f"The secrets handler cannot answer: {views.clean(getattr(error, 'message', '') or error)}"
        ) from None
    click.get_current_context().call_on_close(store.close)
    return store


def _sentence(error: Exception, shown: str, source: str) -> str:
    """Say what is wrong; of a database also which, and who says that it is that one."""
    if isinstance(error, OSError) and error.filename:
        return views.clean(f"{error.filename}: {error.strerror}")
    text = " ".join(str(error).split())
    if isinstance(error, (ConnectionStringError, peewee.PeeweeException)) and source:
        if shown in text:
            text += f" ({source})"
        elif "://" not in text:  # or it is of another
            text += f" The database is {shown} ({source})."
    return views.clean(text)


def _load(path: str) -> Dict[str, Any]:
    try:
        loaded = utils.load_yaml(path)
    except YAMLError as error:
        # Not in the parser's own words, which quote the file.
        mark = getattr(error, "problem_mark", None)
        raise click.ClickException(f"{path} is not YAML{f': see line {mark.line + 1}' if mark else ''}.") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{path} is not YAML.") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise click.ClickException(f"{path} is not a configuration of magnus.")
    return loaded or {}


def _section(config: Dict[str, Any], name: str, path: str) -> Dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise click.ClickException(f"In {path}, what stands under '{name}:' is not of the form key: value.")
    return section


def _secrets_handler(config: Any) -> Any:
    try:
        return utils.get_provider_by_name_and_type("secrets", {**config, "config": config.get("config") or {}})
    except Exception:  # magnus' own, in whose words is all of the configuration
        kind = config.get("type") if isinstance(config, dict) else None
        raise click.ClickException(f"The secrets handler {kind!r} cannot be made as it is configured.") from None


def _check_there(store: DBStore) -> None:
    """Make nothing by looking."""
    database = store.table.database
    if not database.is_there():
        raise peewee.OperationalError(f"There is no SQLite file {database.database}. A pipeline's first run makes it.")
    if not database.persistently(lambda: database.table_exists(TABLE)):
        raise peewee.OperationalError(f"There is no table {TABLE}. A pipeline's first run or create-tables makes it.")


def _chosen(store: DBStore, run_ids: Sequence[str], is_all: bool) -> List[str]:
    """The runs named, by their whole ids; or all, the oldest first."""
    if bool(run_ids) == is_all:
        raise click.UsageError("Give the ids of runs, or --all.")
    if not is_all:
        return list(dict.fromkeys(runs.find_run(store, run_id) for run_id in run_ids))
    return list(dict.fromkeys(run_id for run_id, _ in store.table.runs(fragments.RUN_LOG)))[::-1]


def _step(run: runs.Run, name: str) -> Any:
    """A step by its internal name, or by its own if that is unique."""
    steps = list(runs.steps_of(run.run_log))
    exact = [step for step in steps if step.internal_name == name] or [step for step in steps if step.name == name]
    if len(exact) == 1:
        return exact[0]
    if exact:
        names = _some([step.internal_name for step in exact])
        raise click.ClickException(
            views.clean(f"More than one step of {run.run_log.run_id} is named '{name}': {names}")
        )
    near = runs.nearest(name, [each for step in steps for each in (step.internal_name, step.name)])
    raise click.ClickException(views.clean(f"The run {run.run_log.run_id} has no step '{name}'.{near}"))


def _follow(store: DBStore, run_id: str) -> None:
    console = views.console()
    run = runs.read_run(store, run_id)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while run.run_log.status not in runs.ENDED:
                # The end of it, where it is taller than the terminal: there it goes on.
                lines = console.render_lines(views.run_tree(run, whole=False), pad=False)
                live.update(SegmentLines(lines[-(console.height - 1) :], new_lines=True), refresh=True)
                time.sleep(POLL_SECONDS)
                run = runs.read_run(store, run_id)
        console.print(views.run_tree(run, whole=False))
    else:
        told: Dict[str, str] = {}
        while True:
            lines_now = views.state_lines(run)
            for name, line in lines_now.items():
                if told.get(name) != line:
                    click.echo(f"{datetime.now():%H:%M:%S} {line}")
            told = lines_now
            if run.run_log.status in runs.ENDED:
                break
            time.sleep(POLL_SECONDS)
            run = runs.read_run(store, run_id)
    _echo_unreadable(run)
    if run.run_log.status != defaults.SUCCESS:
        click.get_current_context().exit(1)


def _delete(store: DBStore, run_ids: Sequence[str], yes: bool, dry_run: bool) -> None:
    if not run_ids:
        click.echo("There is nothing to delete.")
        return
    console = views.console()
    summaries = runs.summarize(store, run_ids[:SHOWN])
    console.print(views.runs_table(summaries, console.width))
    if len(run_ids) > SHOWN:
        [newest] = runs.summarize(store, run_ids[-1:])
        started = views.when(summaries[0]["started"]), views.when(newest["started"])
        click.echo(
            f"... and {len(run_ids) - SHOWN:,} more: in all {_count(run_ids)}, from {started[0]} to {started[1]}."
        )
    if dry_run:
        click.echo(f"{_count(run_ids)} would be deleted.")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("Nothing was deleted: there is no terminal to ask on. Add --yes.")
        running = [run["run_id"] for run in summaries if run["status"] not in runs.ENDED]
        if running:
            click.echo(f"Not ended, and perhaps running: {_some(running)}")
        click.confirm(f"Delete {_count(run_ids)}?", abort=True)
    deleted = 0
    try:
        with _progress("runs", len(run_ids)) as bar:
            for _ in upkeep.delete_runs(store, run_ids):
                deleted += 1
                bar(1)
    finally:
        click.echo(f"{deleted:,} of {_count(run_ids)} deleted.")


def _carry_out(outcomes: Iterable[transfer.Outcome], total: int, done: str, there: str) -> None:
    """See runs written one by one, and say at the end, or when interrupted, what became of them."""
    counts = dict.fromkeys(("done", "there", "failed", "problems"), 0)
    try:
        with _progress("runs", total) as bar:
            for outcome in outcomes:
                counts["done" if outcome.done else "failed" if outcome.problem else "there"] += 1
                counts["problems"] += bool(outcome.problem)
                if outcome.problem or outcome.note:
                    click.echo(views.clean(f"{outcome.name}: {outcome.problem or outcome.note}"), err=True)
                bar(1)
    finally:
        told = [f"{counts['done']:,} {done}"]
        told += [f"{counts['there']:,} {there}"] if counts["there"] else []
        told += [f"{counts['failed']:,} failed"] if counts["failed"] else []
        if any(counts.values()) or not total:
            click.echo(f"{', '.join(told)}.")
    if counts["problems"]:
        click.get_current_context().exit(1)


@contextlib.contextmanager
def _progress(unit: str, total: Optional[int]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere nothing."""
    console = views.console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda count: progress.advance(task, count)


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=datetime.isoformat))


def _echo_unreadable(run: runs.Run) -> None:
    for line in views.unreadable_lines(run.unreadable):
        click.echo(line, err=True)


def _count(run_ids: Sequence[str]) -> str:
    return f"{len(run_ids):,} run{'' if len(run_ids) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return views.clean(", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else ""))
