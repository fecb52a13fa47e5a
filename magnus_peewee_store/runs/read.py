"""Read one run, named by its id, by the beginning of its id, or by its place among the newest runs."""

import base64
import difflib
import html
import itertools
import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from magnus import defaults
from magnus.datastore import RunLog

from magnus_peewee_store import fragments
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.exceptions import ConditionError, UnreadableRowError
from magnus_peewee_store.fragments import ENDED, UNKNOWN
from magnus_peewee_store.heartbeat import DIED, Beat, Liveness, beats_of, liveness_of, state_of, time_of_last
from magnus_peewee_store.logs import RunFacts, complete
from magnus_peewee_store.origin import Origin, parse_origin
from magnus_peewee_store.runs.annotate import notes_of, tags_of
from magnus_peewee_store.store import STARTED_BY, DBStore, RunNotFoundError
from magnus_peewee_store.timeline import to_svg
from magnus_peewee_store.times import from_created_at

LATEST = "latest"  # the newest run; `latest~1` is the run before it, and `latest:FAIL` the newest with this status
STATUSES = (defaults.CREATED, defaults.TRIGGERED, defaults.PROCESSING, *ENDED, UNKNOWN, *DIED)

MAX_DEPTH = 200  # pydantic's parser has the same limit
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


class UnreadableRow(NamedTuple):
    """A row that cannot be read, and why."""

    run_id: str
    attribute_type: str
    attribute_key: str
    reason: str

    @property
    def name(self) -> str:
        """Its type and key."""
        return f"{self.attribute_type} {self.attribute_key}"

    def __str__(self) -> str:
        """Return its type and key, and the reason."""
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Run(RunFacts):
    """A run, as far as its rows can be read. A notebook displays it as its timeline."""

    unreadable: List[UnreadableRow] = field(default_factory=list)
    """The rows that cannot be read."""
    reused: Dict[str, str] = field(default_factory=dict)
    """The id of the run that each reused step ran in, by the step's internal name."""
    packages: Tuple[str, ...] = ()
    """The packages that were installed where it was started, as `name==version`."""

    def _repr_html_(self) -> str:
        # The timeline is an image, so its styles affect nothing else.
        image = base64.b64encode(to_svg(self).encode()).decode()
        alternative = html.escape(f"Timeline of run {self.run_log.run_id}")
        return f'<img alt="{alternative}" style="max-width: 100%" src="data:image/svg+xml;base64,{image}">'


def read_run(store: DBStore, run_id: str) -> Run:
    """Read a run, as far as its rows can be read.

    Args:
        run_id: The id of the run. Its beginning is enough if it is unique.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin with it.

    Example:
        >>> from magnus_peewee_store import DBStore, runs
        >>> store = DBStore(connection_string="sqlite:///:memory:")
        >>> _ = store.create_run_log("my-run")
        >>> store.set_parameters("my-run", {"rows": 3})
        >>> runs.read_run(store, "my").run_log.parameters
        {'rows': 3}
    """
    run = None if run_id.startswith(LATEST) else _read_if_there(store, run_id)
    return complete_run(store, run or read_exactly(store, find_run(store, run_id)))


def complete_run(store: DBStore, run: Run) -> Run:
    """Return a run whose complete log has the metrics, data and branches of reused steps, which other runs hold."""

    def read_original(original_run_id: str) -> Optional[RunLog]:
        original = _read_if_there(store, original_run_id)
        return original.run_log if original else None

    complete_log, reused = complete(run.run_log, read_original)
    return replace(run, complete_log=complete_log, reused=reused)


def read_exactly(store: DBStore, run_id: str) -> Run:
    """Read a run by its whole id, as far as its rows can be read. Its reused steps are not completed."""
    run = _read_if_there(store, run_id)
    if not run:
        raise RunNotFoundError(f"There is no run '{run_id}'.")
    return run


def to_run(run_id: str, rows: Sequence[Row], created_at: Any, now: Optional[datetime] = None) -> Run:
    """Return the run that rows hold, oldest first.

    `created_at` is that of the run's own row, or else of its oldest row. `now` is the time by the database's clock, if
    the run has heartbeats.
    """
    unreadable: List[UnreadableRow] = []

    def parse_rows() -> Iterator[Tuple[str, str, Any]]:
        yield fragments.RUN_LOG[0], fragments.RUN_LOG_KEY, RunLog(run_id=run_id, status=UNKNOWN)
        for row in rows:
            try:
                yield row[0], row[1], parse_for_display(*row)
            except UnreadableRowError as error:
                unreadable.append(UnreadableRow(run_id, row[0], row[1], str(error)))

    run_log = fragments.assemble(parse_rows())
    assert run_log  # noqa: S101 - there is a header
    beats = beats_of(rows)
    origin = parse_origin(run_log.run_config.get(STARTED_BY))
    return Run(
        run_log,
        from_created_at(created_at),
        unreadable=unreadable,
        complete_log=run_log,
        last_beat=time_of_last(beats),
        liveness=liveness_of(beats, now) if now and run_log.status not in ENDED else Liveness(),
        origin=origin,
        utc_offset=common_offset(origin, beats),
        tags=tags_of(rows, run_log.tag),
        notes=notes_of(rows),
        packages=_packages_of(rows),
    )


def parse_for_display(attribute_type: str, attribute_key: Any, attribute_value: Any) -> Any:
    """Return what `fragments.parse` does, for tools that walk through the value.

    Raises:
        UnreadableRowError: Also if the value is nested so deep that Python's recursion would end.
    """
    if _depth(str(attribute_value)) > MAX_DEPTH:
        raise UnreadableRowError(f"its value is nested more than {MAX_DEPTH} deep")
    return fragments.parse(attribute_type, attribute_key, attribute_value)


def _depth(text: str) -> int:
    """Return how deep a JSON text is nested, or less than `MAX_DEPTH` if it has few brackets."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    brackets = re.findall(r"[\[\]{}]", _JSON_TEXT.sub("", text))
    return max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets))


def _packages_of(rows: Sequence[Row]) -> Tuple[str, ...]:
    values = (fragments.parse_or_none(*row) for row in rows if row[0] in fragments.ENVIRONMENT)
    return next((tuple(map(str, packages)) for packages in values if isinstance(packages, list)), ())


def common_offset(origin: Origin, beats: Sequence[Beat]) -> Optional[int]:
    """Return the UTC offset of the processes of a run; None if they differ.

    If they differ, the offset of an attempt is unknown, because attempts do not say which process wrote them.
    """
    offsets = {beat.utc_offset for beat in beats} | ({origin.utc_offset} if origin != Origin() else set())
    return offsets.pop() if len(offsets) == 1 else None


def has_ended(header: StoredRow) -> bool:
    """Return True if a run has ended, as far as its own row can be read."""
    log = fragments.parse_or_none(*header.fragment)
    return bool(log) and log.status in ENDED


def _read_if_there(store: DBStore, run_id: str) -> Optional[Run]:
    rows = store.table.read(run_id)
    if not rows:
        return None
    header = next(store.table.read_runs([run_id], fragments.RUN_LOG), None)
    created_at = header.created_at if header else store.table.created_at_range(run_id)[0]
    now = store.database.retry(store.database.now) if any(row[0] in fragments.HEARTBEAT for row in rows) else None
    return to_run(run_id, rows, created_at, now)


def find_run(store: DBStore, run_id: str) -> str:
    """Return the whole id of a run.

    Args:
        run_id: The id, or a beginning of it that no other run shares. `latest` means the newest run, `latest~1` the
            run before it, and `latest:FAIL` or `latest:STALE` the newest run with this status or state.

    Raises:
        RunNotFoundError: If there is no such run, or several ids begin like this.
        ConditionError: If the text after `latest:` is not a status.
    """
    found_by_place = find_by_place(store, run_id)
    if found_by_place or has_run(store, run_id):
        return found_by_place or run_id
    found = newest_ids(store, prefix=run_id, limit=10) if run_id else []
    if len(found) == 1:
        return found[0]
    if found:
        more = ", ..." if len(found) > 9 else ""
        message = f"More than one run begins with '{run_id}': {', '.join(found[:9])}{more}"
        raise RunNotFoundError(message, nearest=found[:9], is_ambiguous=True)
    nearest = _nearest(run_id, newest_ids(store, limit=1000))
    raise RunNotFoundError(f"There is no run '{run_id}'.{_question(nearest)}", nearest)


def find_runs(store: DBStore, run_ids: Iterable[str]) -> List[str]:
    """Return the whole ids of runs, each once. See `find_run`."""
    return list(dict.fromkeys(find_run(store, run_id) for run_id in run_ids))


def newest_ids(store: DBStore, **restrictions: Any) -> List[str]:
    """Return the ids of runs, newest first, each once. The restrictions are those of `RunTable.runs`."""
    return list(dict.fromkeys(run_id for run_id, _ in store.table.runs(fragments.RUN_LOG, **restrictions)))


def find_by_place(store: DBStore, text: str) -> Optional[str]:
    """Return the id of the run that `latest`, `latest:FAIL` or `latest~1` names; None for a text of another form.

    Raise a RunNotFoundError if there is no such run, or if the text is also the id of another run.
    """
    if not re.fullmatch(f"{LATEST}(~[0-9]{{1,6}}|:.*)?", text):
        return None
    is_id = has_run(store, text)
    try:
        found = _find_newest(store, text)
    except (ConditionError, RunNotFoundError):
        if is_id:
            return text
        raise
    if is_id and found != text:
        message = f"'{text}' is ambiguous: it is the id of a run, and it also means the run '{found}'"
        raise RunNotFoundError(message, nearest=[text, found], is_ambiguous=True)
    return found


def parse_status(text: str) -> str:
    """Return a status as magnus writes it, or a state of `DIED`. Upper and lower case are the same.

    Raises:
        ConditionError: If there is no such status. The message lists the known ones.
    """
    status: str = {"FAILED": defaults.FAIL}.get(text.upper(), text.upper())
    if status not in STATUSES:
        raise ConditionError(f"'{text}' is not a status. The statuses are {', '.join(STATUSES)}.")
    return status


def _find_newest(store: DBStore, text: str) -> str:
    if ":" in text:
        return _find_by_status(store, text, parse_status(text.partition(":")[2]))
    number = int(text.partition("~")[2] or 0) + 1
    found = newest_ids(store, limit=number)
    if len(found) < number:
        raise RunNotFoundError(f"There is no run '{text}': the database has {len(found):,}.")
    return found[-1]


def _find_by_status(store: DBStore, text: str, status: str) -> str:
    written = [] if status in DIED else [json.dumps(status)]
    for limit in (10, None):  # Usually one of the newest 10 runs has the status.
        # The text of the status may also occur elsewhere in the run's row.
        for run_id in newest_ids(store, containing=written, limit=limit):
            header = fragments.parse_or_none(*store.table.read(run_id, fragments.RUN_LOG)[-1])
            if header and status in (header.status, _state(store, run_id, header.status)):
                return run_id
    raise RunNotFoundError(f"There is no run '{text}', since no run has the status '{status}'.")


def _state(store: DBStore, run_id: str, status: str) -> str:
    beats = beats_of(store.table.read(run_id, fragments.HEARTBEAT)) if status not in ENDED else []
    liveness = liveness_of(beats, store.database.retry(store.database.now)) if beats else Liveness()
    return state_of(status, liveness.is_stale, liveness.is_interrupted)


def has_run(store: DBStore, run_id: str) -> bool:
    """Return True if there is a run with exactly this id."""
    return store.table.has(run_id, fragments.TYPES)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a space and a question with the known names that are nearest to a name; empty if no name is near."""
    return _question(_nearest(name, known))


def _nearest(name: str, known: Sequence[str]) -> List[str]:
    nearest = difflib.get_close_matches(name, known, n=3)
    if not nearest and name:
        # The name may be a mistyped beginning of a known name. If several names begin alike, the first one counts.
        by_beginning = {each[: len(name)]: each for each in reversed(known)}
        nearest = [by_beginning[each] for each in difflib.get_close_matches(name, by_beginning, n=3)]
    return list(dict.fromkeys(nearest))


def _question(nearest: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(nearest)}?" if nearest else ""
