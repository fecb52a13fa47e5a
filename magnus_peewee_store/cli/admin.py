"""The commands that look after a database: create-tables, create-views, check, which."""

from dataclasses import asdict

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli import trees
from magnus_peewee_store.cli.options import describe_database, json_option, on_database
from magnus_peewee_store.cli.terminal import echo_json, make_console, progress_bar, say
from magnus_peewee_store.configuration import Place, find_places
from magnus_peewee_store.db.schema import schema_of
from magnus_peewee_store.runs.upkeep import CheckReport
from magnus_peewee_store.store import DEFAULT_CONNECTION_STRING, DBStore


@click.command("create-tables")
@on_database(creates=True)
def create_tables(store: DBStore) -> None:
    """Create the table, or complete one that other software created. Running it again is safe.

    \b
    Example:
      magnus db create-tables -c config.yaml
    """
    created = store.database.retry(schema_of(store.database).create)
    for part in created:
        say(f"Created {part}.")
    if not created:
        say("Nothing is missing.")


@click.command("create-views")
@click.option("--drop", is_flag=True, help="Drop the views.")
@on_database()
def create_views(store: DBStore, drop: bool) -> None:
    """Create views for SQL clients: run_summary, run_steps, run_metrics and run_params. Running it again is safe.

    \b
    Example:
      magnus db create-views
    """
    names = runs.drop_views(store) if drop else runs.create_views(store)
    for name in names:
        say(f"{'Dropped' if drop else 'Created'} the view {name}.")
    if not names:
        say("There are no views to drop.")


@click.command()
@on_database()
@json_option
def check(store: DBStore, is_json: bool) -> None:
    """Check the connection, the table, every row, and each page of an SQLite file. The exit status is 0 if all is well.

    \b
    Example:
      magnus db check
    """
    with progress_bar("rows", None) as advance:
        report = runs.check(store, advance)
    if is_json:
        unreadable = [row._asdict() for row in report.unreadable]
        echo_json({**asdict(report), "unreadable": unreadable, "is_healthy": report.is_healthy})
    else:
        make_console().print(trees.check_table(report))
        say(_advice(report))
    if not report.is_healthy:
        click.get_current_context().exit(1)


@click.command()
@on_database(creates=True)
def which(store: DBStore) -> None:
    """Print where the database is looked for, in this order, and what decided.

    \b
    Example:
      magnus db which
    """
    context = click.get_current_context()
    places = find_places(context.params["config_file"], context.params["connection_string"])
    default = Place("the default", DEFAULT_CONNECTION_STRING)
    decisive = next((place for place in places if place.value), default)
    for place in (*places, default):
        say(f"{'->' if place == decisive else '  '} {place.name}: {place.shown or 'none'}")
    say(describe_database(store) + ("" if store.database.exists() else " It does not exist."))


def _advice(report: CheckReport) -> str:
    if report.is_healthy:
        return "All is well." + (" To end dead runs, use magnus db mark-failed RUN_ID." if report.stale else "")
    if report.duplicates:
        return (
            "Of rows with the same run_id, attribute_type and attribute_key, keep the newest by created_at and delete "
            "the others. Then run magnus db create-tables."
        )
    if report.missing:
        return "Run magnus db create-tables."
    if report.widen_pk:
        return f"Half of the numbers of the column pk are used. While no pipeline runs, run: {report.widen_pk}"
    return "The other rows of these runs can still be read. To delete a run, use magnus db delete RUN_ID."
