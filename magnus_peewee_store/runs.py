"""The runs of a database, for the command line, notebooks and scripts: list them, find one, read it, compare two."""

import difflib
import json
from datetime import datetime, timezone
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, TypeVar, Union

from magnus import defaults, exceptions
from magnus.datastore import BranchLog, CodeIdentity, RunLog, StepLog

from magnus_peewee_store import fragments
from magnus_peewee_store.connection import mask
from magnus_peewee_store.db import StoredRow
from magnus_peewee_store.store import DBStore

ENDED = (defaults.SUCCESS, defaults.FAIL)
UNKNOWN = "UNKNOWN"  # the status of a run whose own row cannot be read
AT_ONCE = 200  # runs to read in one query

ANY_ROW = (fragments.RUN_LOG + fragments.STEP + fragments.BRANCH + fragments.PARAMETER, None)

T = TypeVar("T")


class Unreadable(NamedTuple):
    """A row that cannot be read, and why."""

    run_id: str
    attribute_type: str
    attribute_key: str
    reason: str


class Run(NamedTuple):
    """A run as far as it can be read."""

    run_log: RunLog
    """With its parameters, steps and branches. Its status is UNKNOWN if its own row cannot be read."""
    started: Optional[datetime]
    unreadable: List[Unreadable]


class NoSuchRunError(exceptions.RunLogNotFoundError):
    """There is no such run; or, of a shortened id, more than one. The message names the nearest ids."""

    def __init__(self, message: str) -> None:
        super().__init__("")
        self.message = message
        self.args = (message,)


def list_runs(
    store: DBStore, status: str = "", tag: str = "", since: Optional[datetime] = None, limit: int = 20
) -> List[Dict[str, Any]]:
    """List the newest runs.

    Args:
        store: The store.
        status: Only runs of this status.
        tag: Only runs with this tag.
        since: Only runs that started at this time or later; without a time zone it is local time.
        limit: How many runs.

    Returns:
        What `summarize` tells of each, newest first.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run", tag="nightly")
        >>> [run["status"] for run in runs.list_runs(store, tag="nightly")]
        ['CREATED']
    """
    wished = {name: value for name, value in (("status", status), ("tag", tag)) if value}
    # Only to spare the database's answer most of what is not meant: others write JSON with other spaces and escapes.
    texts = [json.dumps(value) for value in wished.values() if value.isascii()]
    utc = since.astimezone(timezone.utc).replace(tzinfo=None) if since else None
    rows = limit
    while True:
        found = store.table.runs(fragments.RUN_LOG, since=utc, containing=texts, limit=rows)
        run_ids = list(dict.fromkeys(run_id for run_id, _ in found))
        if wished:
            run_ids = _with(store, run_ids, wished)
        if len(run_ids) >= limit or len(found) < rows:
            return summarize(store, run_ids[:limit])
        rows *= 4


def summarize(store: DBStore, run_ids: Sequence[str]) -> List[Dict[str, Any]]:
    """Tell of runs what a list of them shows.

    Args:
        store: The store.
        run_ids: Their ids.

    Returns:
        A dictionary a run: `run_id`; `status` and `tag`; `started`, a datetime in UTC; `duration` in seconds, of a run
        that has not ended until now; `steps_done` of the `steps_known`, which are those that have begun; `failed_step`,
        the innermost that failed first; `unreadable`, the rows that cannot be read. None stands for what is not known.
    """
    summaries = []
    for some in chunks(run_ids, AT_ONCE):
        rows_of: Dict[str, List[StoredRow]] = {run_id: [] for run_id in some}
        for row in store.table.read_runs(some, fragments.RUN_LOG + fragments.STEP):
            rows_of[row.run_id].append(row)
        summaries += [_summary(run_id, rows) for run_id, rows in rows_of.items()]
    return summaries


def find_run(store: DBStore, run_id: str) -> str:
    """Find a run by its id, which may be shortened while it is unique.

    Args:
        store: The store.
        run_id: The id, or its beginning.

    Returns:
        The whole id.

    Raises:
        NoSuchRunError: If there is none, or several begin so.
    """
    if store.table.has(run_id, ANY_ROW):
        return run_id
    found = store.table.runs(fragments.RUN_LOG, prefix=run_id, limit=10) if run_id else []
    several = list(dict.fromkeys(each for each, _ in found))
    if len(several) == 1:
        return several[0]
    if several:
        raise NoSuchRunError(f"More than one run begins with '{run_id}': {', '.join(several[:9])}{_more(several, 9)}")
    known = [each for each, _ in store.table.runs(fragments.RUN_LOG, limit=1000)]
    raise NoSuchRunError(f"There is no run '{run_id}'.{nearest(run_id, known) or ' magnus db runs lists them.'}")


def read_run(store: DBStore, run_id: str, shortened: bool = True) -> Run:
    """Read a run, whatever of it can be read.

    Args:
        store: The store.
        run_id: Its id, or the beginning of it.
        shortened: Whether the beginning will do.

    Returns:
        The run.

    Raises:
        NoSuchRunError: If there is none, or several begin so.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run")
        >>> store.set_parameters("my-run", {"rows": 3})
        >>> runs.read_run(store, "my").run_log.parameters
        {'rows': 3}
    """
    rows = store.table.read_runs([run_id])
    if not rows and shortened:
        return read_run(store, find_run(store, run_id), shortened=False)
    if not rows:
        raise NoSuchRunError(f"There is no run '{run_id}'.")
    return to_run(rows)


def to_run(rows: Sequence[StoredRow]) -> Run:
    """Assemble a run.

    Args:
        rows: Its rows, oldest first; one at least.

    Returns:
        The run, as far as they can be read.
    """
    run_id = rows[0].run_id
    readable, unreadable = [], []
    for row in rows:
        reason = fragments.why_unreadable(*row[1:4])
        if reason:
            unreadable.append(Unreadable(*row[:3], reason))
        else:
            readable.append(row)
    header = [row for row in readable if row.attribute_type in fragments.RUN_LOG]
    nothing_known = fragments.of_header(RunLog(run_id=run_id, status=UNKNOWN))
    run_log = fragments.to_run_log([nothing_known, *(row[1:4] for row in readable)])
    assert run_log  # noqa: S101 - there is a header
    run_log.run_config = without_secrets(run_log.run_config)
    return Run(run_log, _utc((header or rows)[0].created_at), unreadable)


def has_ended(header: StoredRow) -> bool:
    """Tell whether a run has ended.

    Args:
        header: The run's own row.

    Returns:
        Whether it has, as far as the row can be read.
    """
    try:
        return fragments.to_header(header.attribute_value).status in ENDED
    except fragments.UNREADABLE:
        return False


def without_secrets(run_config: Dict[str, Any]) -> Dict[str, Any]:
    """Leave out of a run config what other stores keep in it: the secrets, and the password of a connection string.

    Args:
        run_config: The run config.

    Returns:
        The run config as this store would have it.
    """
    header = fragments.of_header(RunLog(run_id="", run_config=run_config))
    clean: Dict[str, Any] = fragments.to_header(header.attribute_value).run_config
    kept_in = clean.get("run_log_store")
    if isinstance(kept_in, dict) and isinstance(kept_in.get("connection_string"), str):
        kept_in["connection_string"] = mask(kept_in["connection_string"])
    return clean


def steps_of(run_log: Union[BranchLog, RunLog]) -> Iterator[StepLog]:
    """Walk through all steps of a run, each before those in its branches.

    Args:
        run_log: The run log, or a branch log.

    Yields:
        The steps, without the nodes that only end a graph.
    """
    for step in run_log.steps.values():
        if step.step_type not in fragments.TERMINAL:
            yield step
        for branch in step.branches.values():
            yield from steps_of(branch)


def duration_of(status: str, started: Optional[datetime], steps: Iterable[StepLog]) -> Optional[float]:
    """Tell how long a run, a branch or a step took.

    Args:
        status: Its status.
        started: When it started, if that is known.
        steps: Its steps, or itself.

    Returns:
        The seconds from the first attempt's start to the last one's end; until now if it has not ended. None if that
        is not known.
    """
    if status not in ENDED and started:
        return max(0.0, (datetime.now(timezone.utc) - started).total_seconds())
    told = [time for step in steps for each in step.attempts for time in (each.start_time, each.end_time)]
    times = [time for time in map(local_time, told) if time]
    return (max(times) - min(times)).total_seconds() if times else None


def local_time(told: str) -> Optional[datetime]:
    """Read a time of an attempt.

    Args:
        told: As magnus writes it: local time, without a time zone.

    Returns:
        The time, None if it is none.
    """
    try:
        return datetime.fromisoformat(told).astimezone()
    except (OSError, OverflowError, ValueError):
        return None


def code_versions(run_log: RunLog) -> List[str]:
    """Tell the versions of the code that the steps of a run ran.

    Args:
        run_log: The run log.

    Returns:
        Each version that is known, such as `git 1b9f...`; one, as a rule.
    """
    codes = [code for step in steps_of(run_log) for code in step.code_identities]
    return list(dict.fromkeys(code_version(code) for code in codes if code.code_identifier))


def code_version(code: CodeIdentity) -> str:
    """Write a version of code.

    Args:
        code: What magnus found of it.

    Returns:
        Its kind and identifier, and whether there were changes since.
    """
    changed = "" if code.code_identifier_dependable else " (changed)"
    return f"{code.code_identifier_type} {code.code_identifier}{changed}"


def diff(a: RunLog, b: RunLog) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Tell what differs between two runs.

    Args:
        a: A run log.
        b: Another.

    Returns:
        By section (`run`, `parameters`, `metrics`, `code`, `steps`) and name what each has: `{"a": ..., "b": ...}`,
        without the one that has nothing of that name. A name within a dictionary is a dot path.
    """
    sections_a, sections_b = _sections(a), _sections(b)
    return {section: _differing(sections_a[section], sections_b[section]) for section in sections_a}


def nearest(name: str, known: Sequence[str]) -> str:
    """Say which names somebody may have meant.

    Args:
        name: What they wrote.
        known: The names there are.

    Returns:
        A sentence, with a space before it; empty if none is near.
    """
    # Of a shortened name only the beginning of another can be near.
    beginnings = {each[: len(name)]: each for each in reversed(known) if name}
    near = difflib.get_close_matches(name, known, n=3) or difflib.get_close_matches(name, beginnings, n=3)
    meant = dict.fromkeys(beginnings.get(each, each) if each not in known else each for each in near)
    return f" Did you mean {' or '.join(meant)}?" if meant else ""


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces.

    Args:
        items: The sequence.
        size: How many items a piece has, but for the last.

    Yields:
        The pieces.
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _with(store: DBStore, run_ids: Sequence[str], wished: Dict[str, str]) -> List[str]:
    headers: Dict[str, RunLog] = {}
    for some in chunks(run_ids, AT_ONCE):
        for row in store.table.read_runs(some, fragments.RUN_LOG):
            if not fragments.why_unreadable(*row[1:4]):
                headers[row.run_id] = fragments.to_header(row.attribute_value)
    return [
        run_id
        for run_id in run_ids
        if run_id in headers and all(getattr(headers[run_id], name) == value for name, value in wished.items())
    ]


def _summary(run_id: str, rows: Sequence[StoredRow]) -> Dict[str, Any]:
    run = to_run(rows) if rows else Run(RunLog(run_id=run_id, status=UNKNOWN), None, [])
    steps = list(steps_of(run.run_log))
    unread_steps = [each for each in run.unreadable if each.attribute_type in fragments.STEP]
    failed = [step.internal_name for step in steps if step.status == defaults.FAIL]
    innermost = [name for name in failed if not any(other.startswith(f"{name}.") for other in failed)]
    return {
        "run_id": run_id,
        "status": run.run_log.status,
        "tag": run.run_log.tag or None,
        "started": run.started,
        "duration": duration_of(run.run_log.status, run.started, steps),
        "steps_done": sum(step.status == defaults.SUCCESS for step in steps),
        "steps_known": len(steps) + len(unread_steps),
        "failed_step": innermost[0] if innermost else None,
        "unreadable": [f"{each.attribute_type} {each.attribute_key}" for each in run.unreadable],
    }


def _utc(created_at: Any) -> Optional[datetime]:
    return created_at.replace(tzinfo=timezone.utc) if isinstance(created_at, datetime) else None


def _sections(run_log: RunLog) -> Dict[str, Dict[str, Any]]:
    steps = list(steps_of(run_log))
    metrics = {step.internal_name: step.user_defined_metrics for step in steps if step.user_defined_metrics}
    return {
        "run": {"status": run_log.status, "tag": run_log.tag or "", "pipeline": run_log.dag_hash or ""},
        "parameters": _flat(run_log.parameters),
        "metrics": _flat(metrics),
        "code": {"version": ", ".join(code_versions(run_log))},
        "steps": {
            step.internal_name: {"status": step.status, "duration": duration_of(step.status, None, [step])}
            for step in steps
        },
    }


def _flat(values: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    flat: Dict[str, Any] = {}
    for name, value in values.items():
        if value and isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differing(a: Dict[str, Any], b: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    names = dict.fromkeys([*a, *b])
    pairs = {name: {side: of[name] for side, of in (("a", a), ("b", b)) if name in of} for name in names}
    # As JSON, for NaN differs from itself.
    return {
        name: pair
        for name, pair in pairs.items()
        if len(pair) == 1 or json.dumps(pair["a"], sort_keys=True) != json.dumps(pair["b"], sort_keys=True)
    }


def _more(items: Sequence[Any], shown: int) -> str:
    return ", ..." if len(items) > shown else ""
