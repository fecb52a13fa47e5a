"""The views for SQL clients: which columns they have, and from where."""

from typing import List, Tuple

from magnus_peewee_store import fragments
from magnus_peewee_store.db import views
from magnus_peewee_store.db.views import SelectView, View, ViewSql
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.store import STARTED_BY, DBStore


def create_views(store: DBStore) -> List[str]:
    """Create or replace the views for SQL clients. The table must exist.

    - `run_summary`: `run_id`, `status`, `started`, `ended`, `duration_s`, `tag`, `pipeline`, `user`, `host`, `commit`.
    - `run_steps`: `run_id`, `step`, `step_type`, `status`, `started`, `ended`, `duration_s`, `commit`.
    - `run_metrics`: `run_id`, `step`, `metric`, `iteration`, `value`, `text`, with a row for each point of a series.
      If the point is a dictionary, each name in it has a row, such as `eval.loss`. For a metric without iterations,
      `iteration` is NULL.
    - `run_params`: `run_id`, `param`, `value`, `text`.

    `value` is the number, or NULL if the value is not a number. `text` is the value as text. Times are in UTC. `ended`,
    `duration_s` and the times of steps are NULL if the run did not record its offset from UTC, or if the offset changed
    during the run. `ended` and `duration_s` are NULL until the run has ended.

    Returns:
        The names of the views.
    """
    return views.create_views(store.database, VIEWS)


def drop_views(store: DBStore) -> List[str]:
    """Drop the views of `create_views`, and return the names of those that existed."""
    return views.drop_views(store.database, VIEWS)


def _select_steps(sql: ViewSql) -> str:
    offset = sql.json_text("document", "run_config", STARTED_BY, "utc_offset")
    # A heartbeat with another offset: the times of attempts do not say which of the two they have.
    ending = sql.concat("""'"utc_offset": '""", offset, "'}'")
    other_offset = f"""
        EXISTS (
            SELECT 1 FROM {sql.table} AS beat
            WHERE beat.run_id = run.run_id AND beat.attribute_type IN ({_texts(fragments.HEARTBEAT)})
            AND {sql.position(ending, "beat.attribute_value")} = 0
        )
    """  # noqa: S608 - constants
    start, end = (sql.json_text("document", "attempts", *path) for path in ((0, "start_time"), (-1, "end_time")))
    commit = sql.database.quoted("commit")
    return f"""
        SELECT step.run_id AS run_id, step.step AS step, step.step_type AS step_type, step.status AS status,
            {sql.to_utc("step.start_text", "run.utc_offset")} AS started,
            {sql.to_utc("step.end_text", "run.utc_offset")} AS ended,
            CASE WHEN run.utc_offset IS NOT NULL
            THEN {sql.seconds_between("step.start_text", "step.end_text")} END AS duration_s,
            step.commit_text AS {commit}
        FROM (
            SELECT run_id, attribute_key AS step, {sql.json_text("document", "step_type")} AS step_type,
                {sql.json_text("document", "status")} AS status, {start} AS start_text, {end} AS end_text,
                {sql.json_text("document", "code_identities", 0, "code_identifier")} AS commit_text
            FROM {_documents(sql, fragments.STEP)} AS parsed_step
        ) AS step
        JOIN (
            SELECT run_id, CASE WHEN NOT {other_offset} THEN {sql.to_offset(offset)} END AS utc_offset
            FROM {_documents(sql, fragments.RUN_LOG)} AS run
        ) AS run ON run.run_id = step.run_id
        WHERE step.step_type NOT IN ({_texts(fragments.TERMINAL_STEP_TYPES)})
    """  # noqa: S608 - constants


def _select_runs(sql: ViewSql) -> str:
    def text(*path: str) -> str:
        return sql.json_text("run.document", *path)

    user, commit = sql.database.quoted("user"), sql.database.quoted("commit")
    has_ended = f"{text('status')} IN ({_texts(ENDED)})"
    return f"""
        SELECT run.run_id AS run_id, {text("status")} AS status, run.created_at AS started,
            CASE WHEN {has_ended} THEN steps.ended END AS ended,
            CASE WHEN {has_ended} THEN {sql.seconds_between("steps.started", "steps.ended")} END AS duration_s,
            NULLIF({text("tag")}, '') AS tag, NULLIF({text("run_config", "pipeline_file")}, '') AS pipeline,
            {text("run_config", STARTED_BY, "user")} AS {user}, {text("run_config", STARTED_BY, "host")} AS host,
            steps.commit_text AS {commit}
        FROM {_documents(sql, fragments.RUN_LOG)} AS run
        LEFT JOIN (
            SELECT run_id, MIN(started) AS started, MAX(ended) AS ended, MIN({commit}) AS commit_text
            FROM {sql.database.qualified("run_steps")} GROUP BY run_id
        ) AS steps ON steps.run_id = run.run_id
    """  # noqa: S608 - constants


def _documents(sql: ViewSql, types: Tuple[str, ...]) -> str:
    return f"""(
        SELECT log.run_id AS run_id, log.attribute_key AS attribute_key, log.created_at AS created_at,
            {sql.document} AS document
        FROM {sql.table} AS log
        WHERE log.attribute_type IN ({_texts(types)}) {sql.fence}
    )"""  # noqa: S608 - constants


def _texts(texts: Tuple[str, ...]) -> str:
    return ", ".join(f"'{text}'" for text in texts)


VIEWS = (
    View("run_metrics", fragments.STEP, "step", "user_defined_metrics", "metric"),
    View("run_params", fragments.PARAMETER, "param"),
    SelectView("run_steps", _select_steps),
    SelectView("run_summary", _select_runs),
)
