"""Convert run logs to rows (type, key and JSON value) and back. No database, no I/O.

What converts a log or a value to rows raises InvalidValueError for a value that JSON cannot represent.
"""

import json
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Type, Union

from magnus import defaults
from magnus.datastore import BranchLog, RunLog, StepLog
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_jsonable_python

from magnus_peewee_store.exceptions import InvalidValueError, UnreadableRowError
from magnus_peewee_store.scrub import scrub_log, scrub_urls


class Fragment(NamedTuple):
    """A part of a run log that is one row of the table."""

    attribute_type: str
    attribute_key: str
    attribute_value: str


# The values of attribute_type. The store writes the first and reads all. The SQLAlchemy extension wrote the second.
RUN_LOG = ("RunLog",)
STEP = ("Step", "StepLog")
BRANCH = ("Branch", "BranchLog")
PARAMETER = ("Parameter",)
TYPES = RUN_LOG + STEP + BRANCH + PARAMETER

# Rows that are not part of the run log. magnus does not know them.
HEARTBEAT = ("Heartbeat",)
TAG = ("Tag",)
NOTE = ("Note",)
ANNOTATIONS = TAG + NOTE
ENVIRONMENT = ("Environment",)  # the packages that were installed where the run was started
META = ANNOTATIONS + ENVIRONMENT  # what a file beside the run log holds when runs are exported
PROBE = ("Probe",)  # tells whether two connections lead to one database; see `runs.copy_runs`
EXTRA = HEARTBEAT + META + PROBE

RUN_LOG_KEY = "run_log"
HEADER = (RUN_LOG, RUN_LOG_KEY)  # the types and the key of the run's own row, which each run has
MARKED_FAILED = "marked_failed"  # a key that `mark_failed` adds to logs, and that magnus' next status removes

ENDED = (defaults.SUCCESS, defaults.FAIL)  # the statuses of runs, steps and branches that have ended
UNKNOWN = "UNKNOWN"  # the status of a run whose own row cannot be read
TERMINAL_STEP_TYPES = ("success", "fail")  # the types of the nodes that end a graph and do nothing

# What pydantic, json and magnus' classes raise for text that is not a log.
PARSE_ERRORS = (OverflowError, RecursionError, TypeError, ValueError)


def dump_run_log(run_log: RunLog) -> List[Fragment]:
    """Return all fragments of a run log, each parent before its children, as `to_run_log` needs them."""
    return [dump_header(run_log), *dump_parameters(run_log.parameters), *_dump_steps(run_log)]


def dump_header(run_log: RunLog) -> Fragment:
    """Return the run's own fragment: the run log without its parameters, steps and secrets."""
    return _dump(RUN_LOG, RUN_LOG_KEY, _header_to_json, run_log)


def dump_parameters(parameters: Mapping[str, Any]) -> List[Fragment]:
    """Return a fragment for each parameter: its name and its value."""
    return [_dump(PARAMETER, name, json.dumps, value) for name, value in parameters.items()]


def dump_step(step_log: StepLog) -> List[Fragment]:
    """Return the fragments of a step, without secrets: its own, those of its branches, then those of their steps."""
    own = _dump(STEP, step_log.internal_name, _to_json, scrub_log(step_log), "branches")
    branch_logs = step_log.branches.values()
    steps = [fragment for branch_log in branch_logs for fragment in _dump_steps(branch_log)]
    return [own, *map(_dump_branch, branch_logs), *steps]


def dump_branch(branch_log: BranchLog) -> List[Fragment]:
    """Return the fragments of a branch: its own, then those of its steps."""
    return [_dump_branch(branch_log), *_dump_steps(branch_log)]


def parent_branch(step_name: str) -> str:
    """Return the internal name of the branch that a step belongs to; an empty string for a step of the run itself.

    magnus refuses a dot in the own name of a node. So the branch is everything before the last dot, even if the
    branch's own name contains dots.
    """
    return step_name.rpartition(".")[0]


def own_name(branch_name: str, step_name: str) -> str:
    """Return a branch's name without the name of its step. For a map, it is the value that the branch works on."""
    return branch_name[len(step_name) + 1 :] if branch_name.startswith(f"{step_name}.") else branch_name


def parse(attribute_type: str, attribute_key: Any, attribute_value: Any) -> Any:
    """Return the parsed value: a run, step or branch log without its children and secrets, or a parameter's value.

    Raises:
        UnreadableRowError: If the type is unknown, or the value is not what magnus writes. Other software, or a newer
            version of this package, may have written the row.
    """
    log_class = _LOG_CLASSES.get(attribute_type)
    if log_class is None and attribute_type not in _VALUE_TYPES:
        raise UnreadableRowError(f"this version does not know the type '{attribute_type}'")
    if not isinstance(attribute_key, str):
        raise UnreadableRowError("it has no key")
    try:
        return scrub_log(_parse_log(log_class, attribute_value)) if log_class else _parse_value(attribute_value)
    except PARSE_ERRORS as error:
        raise UnreadableRowError(explain(error)) from error


def parse_or_none(attribute_type: str, attribute_key: Any, attribute_value: Any) -> Any:
    """Return what `parse` does; None for a row that cannot be read."""
    try:
        return parse(attribute_type, attribute_key, attribute_value)
    except UnreadableRowError:
        return None


def scrub_row(attribute_type: str, attribute_value: str) -> str:
    """Return a row's value without secrets. A value without any stays as it is, to the byte."""
    log_class = _LOG_CLASSES.get(attribute_type)
    if log_class is None:
        return attribute_value
    try:
        log = _parse_log(log_class, attribute_value)
        clean = scrub_log(log)
    except PARSE_ERRORS:
        return scrub_urls(attribute_value)
    if clean is log:
        return attribute_value
    return _header_to_json(clean) if isinstance(clean, RunLog) else _to_json(clean, "branches")


def explain(error: Exception) -> str:
    """Describe in one line why a text cannot be parsed, without quoting it."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
    if isinstance(error, UnicodeEncodeError):
        return "it is not UTF-8"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"it is not JSON: {error}"
    return str(error) if isinstance(error, ValueError) else "it does not have the form that magnus writes"


def to_parameters(rows: Iterable[Tuple[str, str, str]]) -> Dict[str, Any]:
    """Return the parameters of a run by name, given its rows, oldest first."""
    return {row[1]: parse(*row) for row in rows if row[0] in PARAMETER}


def changed_parameters(parameters: Iterable[Fragment], read: Mapping[str, str]) -> List[Fragment]:
    """Return the parameters whose values differ from those that were read.

    `read` has the values that were read, as JSON, by name. If one of its names is missing, all parameters are returned.
    `DBStore.set_parameters` says why.
    """
    parameters = list(parameters)
    names = {fragment.attribute_key for fragment in parameters}
    # magnus passes parameters through environment variables, which makes their names lower case.
    if not all(name in names or name.lower() in names for name in read):
        return parameters
    return [each for each in parameters if not is_same_json(each.attribute_value, read.get(each.attribute_key))]


def to_run_log(rows: Iterable[Tuple[str, str, str]]) -> Optional[RunLog]:
    """Return the run log, given the rows of a run, oldest first; None if the run's own row is missing.

    Rows of unknown types are skipped. If several rows have the same key, the last one counts.
    """
    return assemble((row[0], row[1], parse(*row)) for row in rows if row[0] in TYPES)


def assemble(fragments: Iterable[Tuple[str, str, Any]]) -> Optional[RunLog]:
    """Return the run log that parsed fragments make up, given oldest first; None if the run's own fragment is missing.

    A dotted name alone does not tell its parent: a branch of a map is named after a value, which may contain dots. So
    the names of the known steps and branches decide. The parent of a step is the longest prefix of its name that is
    the name of a branch. The parent of a branch is the longest prefix of its name that is the name of an older step:
    magnus writes the step first.
    """
    run_log: Optional[RunLog] = None
    parameters: Dict[str, Any] = {}
    steps: Dict[str, StepLog] = {}
    branches: Dict[str, BranchLog] = {}
    step_of: Dict[str, Optional[str]] = {}
    for attribute_type, name, content in fragments:
        if attribute_type in STEP:
            steps[name] = content
        elif attribute_type in BRANCH:
            branches[name] = content
            step_of.setdefault(name, longest_prefix(name, steps))
        elif attribute_type in PARAMETER:
            parameters[name] = content
        elif attribute_type in RUN_LOG:
            run_log = content
    if run_log is None:
        return None

    run_log.parameters = parameters
    for name, parent in step_of.items():
        parent = parent or longest_prefix(name, steps)  # Wrong clocks may have made the step newer than the branch.
        if parent:
            steps[parent].branches[name] = branches[name]
        else:
            # The step is missing. The steps of the branch move up to the nearest known branch, or to the run.
            del branches[name]
    for name, step_log in steps.items():
        branch = longest_prefix(name, branches)
        (branches[branch] if branch else run_log).steps[name] = step_log
    return run_log


_VALUE_TYPES = frozenset(PARAMETER + EXTRA)
_LOG_CLASSES: Dict[str, Type[Union[RunLog, StepLog, BranchLog]]] = {
    **dict.fromkeys(RUN_LOG, RunLog),
    **dict.fromkeys(STEP, StepLog),
    **dict.fromkeys(BRANCH, BranchLog),
}


def _parse_log(log_class: Type[Union[RunLog, StepLog, BranchLog]], value: str) -> Any:
    try:
        return log_class.model_validate_json(value)
    except (TypeError, ValidationError):
        return log_class(**_parse_slowly(value))


def _parse_value(value: str) -> Any:
    try:
        return from_json(value)
    except (TypeError, ValueError):
        return _parse_slowly(value)


def _parse_slowly(value: str) -> Any:
    """Parse JSON with escaped lone surrogates or deep nesting, which pydantic's faster parser does not read."""
    if not value.isascii():
        value.encode()  # This raises an error for bytes that are not UTF-8.
    return json.loads(value)


def is_same_json(value: str, other: Optional[str]) -> bool:
    """Return True if two JSON texts have the same value. 1, 1.0 and true differ; the order of keys does not matter."""
    if other is None:
        return False
    return value == other or json.dumps(json.loads(value), sort_keys=True) == json.dumps(
        json.loads(other), sort_keys=True
    )


def _dump_branch(branch_log: BranchLog) -> Fragment:
    return _dump(BRANCH, branch_log.internal_name, _to_json, branch_log, "steps")


def _dump_steps(log: Union[RunLog, BranchLog]) -> List[Fragment]:
    return [fragment for step_log in log.steps.values() for fragment in dump_step(step_log)]


def longest_prefix(name: str, known: Collection[str]) -> Optional[str]:
    """Return the longest known dotted prefix of a name."""
    if len(name) > 1000 and name.count(".") * 20 > len(known):  # Each prefix would take longer than each known name.
        return max((each for each in known if name.startswith(f"{each}.")), key=len, default=None)
    prefix, dot, _ = name.rpartition(".")
    while dot and prefix not in known:
        prefix, dot, _ = prefix.rpartition(".")
    return prefix if dot else None


def _header_to_json(run_log: RunLog) -> str:
    return json.dumps(scrub_log(run_log).model_dump(exclude={"parameters", "steps"}))


def _to_json(log: BaseModel, exclude: str) -> str:
    """Return a log as JSON. Times become texts, and sets become lists."""
    try:
        text = log.model_dump_json(exclude={exclude})
        # pydantic takes half the time of json. But it does not escape non-ASCII characters, and writes NaN as null. Its
        # older versions write NaN and Infinity without a space before it, where the views do not find it.
        if text.isascii() and "null" not in text and "NaN" not in text and "Infinity" not in text:
            return text
    except ValueError:
        pass  # The log contains a lone surrogate, which json can write.
    return json.dumps(log.model_dump(exclude={exclude}), default=to_jsonable_python)


def _dump(types: Tuple[str, ...], name: str, to_json: Callable[..., str], *arguments: Any) -> Fragment:
    """Return a fragment. Its JSON is ASCII, so the character set of the table does not matter."""
    try:
        return Fragment(types[0], name, to_json(*arguments))
    except RecursionError as error:
        raise InvalidValueError(f"The {types[0]} '{name}' contains a value that is nested too deep for JSON") from error
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"The {types[0]} '{name}' contains a value that JSON cannot represent: {error}"
        ) from error
