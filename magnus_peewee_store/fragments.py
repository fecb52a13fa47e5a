"""Run logs to fragments and back: what stands in a row's type, key and value. No database, no I/O."""

import json
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Type, TypeVar

from magnus.datastore import BranchLog, RunLog, StepLog
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_jsonable_python

Log = TypeVar("Log", bound=BaseModel)


class Fragment(NamedTuple):
    """A part of a run log that is written on its own: the columns attribute_type, _key and _value of its row."""

    attribute_type: str
    attribute_key: str
    attribute_value: str


# What a fragment's attribute_type may be: the first is written, and all are read. The second of two is what the
# SQLAlchemy extension wrote, although its documented model names the first.
RUN_LOG = ("RunLog",)
STEP = ("Step", "StepLog")
BRANCH = ("Branch", "BranchLog")
PARAMETER = ("Parameter",)

RUN_LOG_KEY = "run_log"

TERMINAL = ("success", "fail")  # the types of the nodes that end a graph, which do nothing

UNREADABLE = (RecursionError, TypeError, ValueError)  # what reading a fragment raises that is not one


def of_run_log(run_log: RunLog) -> List[Fragment]:
    """Cut a run log into all of its fragments.

    Args:
        run_log: The run log, with whatever parameters, steps and branches it holds.

    Returns:
        The fragments, each parent before its children, which is the order that `to_run_log` finds parents by.

    Raises:
        TypeError: If something in it can be no JSON. Of a time pydantic makes a text, of a set a list.
    """
    steps = [fragment for step_log in run_log.steps.values() for fragment in of_step(step_log)]
    return [of_header(run_log), *of_parameters(run_log.parameters), *steps]


def of_header(run_log: RunLog) -> Fragment:
    """Make the fragment of the run itself: the run log without its parameters and steps.

    Of the secrets handler, which by then may hold every secret in plain text, the run config keeps its name only.

    Args:
        run_log: The run log.

    Returns:
        The fragment.

    Raises:
        TypeError: If something in the run config is not JSON.
    """
    header = run_log.model_dump(exclude={"parameters", "steps"})
    secrets_handler = header["run_config"].get("secrets_handler")
    if isinstance(secrets_handler, dict):
        header["run_config"]["secrets_handler"] = {
            name: value for name, value in secrets_handler.items() if name in ("service_name", "service_type")
        }
    return _fragment(RUN_LOG, RUN_LOG_KEY, json.dumps, header)


def of_parameters(parameters: Mapping[str, Any]) -> List[Fragment]:
    """Make a fragment of each parameter: its bare value under its name.

    Args:
        parameters: The parameters by name.

    Returns:
        The fragments, in the parameters' order.

    Raises:
        TypeError: If a value is not JSON, or a name not a string.
    """
    return [_fragment(PARAMETER, name, json.dumps, value) for name, value in parameters.items()]


def of_step(step_log: StepLog) -> List[Fragment]:
    """Make the fragments of a step: the step itself and, where it holds branches, theirs.

    Args:
        step_log: The step log.

    Returns:
        The fragments: the step's own, those of its branches, and then those of their steps, as magnus fans out.

    Raises:
        TypeError: If something in it can be no JSON. Of a time pydantic makes a text, of a set a list.
    """
    own = _fragment(STEP, step_log.internal_name, _json_of, step_log, "branches")
    branch_logs = step_log.branches.values()
    return [own, *map(_own_of_branch, branch_logs), *(each for log in branch_logs for each in _steps_of_branch(log))]


def of_branch(branch_log: BranchLog) -> List[Fragment]:
    """Make the fragments of a branch: the branch itself and, where it holds steps, theirs.

    Args:
        branch_log: The branch log.

    Returns:
        The fragments, the branch's own first.

    Raises:
        TypeError: If something in it can be no JSON. Of a time pydantic makes a text, of a set a list.
    """
    return [_own_of_branch(branch_log), *_steps_of_branch(branch_log)]


def parent_branch(step_name: str) -> str:
    """Name the branch that a step belongs to.

    A node's own name holds no dot (magnus refuses it), so the branch is all that stands before the last one, whatever
    dots the branch has itself.

    Args:
        step_name: The internal name of the step.

    Returns:
        The internal name of the branch; empty for a step of the run itself.
    """
    return step_name.rpartition(".")[0]


def own_name(branch_name: str, step_name: str) -> str:
    """Name a branch within its step.

    Args:
        branch_name: The internal name of the branch.
        step_name: The internal name of its step.

    Returns:
        What the branch's name adds to the step's: of a map's branch, its value. All of it if it does not continue that.
    """
    return branch_name[len(step_name) + 1 :] if branch_name.startswith(f"{step_name}.") else branch_name


def to_header(value: str) -> RunLog:
    """Make a run log, without parameters and steps, of a header's value.

    Args:
        value: The attribute_value of a run's own fragment.

    Returns:
        The run log.
    """
    return _log(RunLog, value)


def to_step(value: str) -> StepLog:
    """Make a step log of a step fragment's value.

    Args:
        value: The attribute_value of a step's fragment.

    Returns:
        The step log, without branches.
    """
    return _log(StepLog, value)


def to_branch(value: str) -> BranchLog:
    """Make a branch log of a branch fragment's value.

    Args:
        value: The attribute_value of a branch's fragment.

    Returns:
        The branch log, without steps.
    """
    return _log(BranchLog, value)


def to_value(value: str) -> Any:
    """Make the value of a parameter of its fragment's.

    Args:
        value: The attribute_value of a parameter's fragment.

    Returns:
        The value.
    """
    try:
        return from_json(value)
    except ValueError:
        return json.loads(value)  # as in _log


def to_parameters(fragments: Iterable[Tuple[str, str, str]]) -> Dict[str, Any]:
    """Collect the parameters among fragments.

    Args:
        fragments: Fragments of one run, oldest first.

    Returns:
        The parameters by name.
    """
    return {name: to_value(value) for kind, name, value in fragments if kind in PARAMETER}


def why_unreadable(kind: str, name: Any, value: Any) -> str:
    """Tell why a fragment cannot be read: others may have edited it, or a newer version written it.

    Args:
        kind: Its attribute_type.
        name: Its attribute_key.
        value: Its attribute_value.

    Returns:
        The reason; empty if it can be read.
    """
    read = next((read for kinds, read in _READERS if kind in kinds), None)
    if read is None:
        return f"{kind} is a type that this version does not know"
    if not isinstance(name, str):
        return "it has no key"
    try:
        read(value)
    except UNREADABLE as error:
        return explain(error)
    return ""


def explain(error: Exception) -> str:
    """Say in one line what is wrong with what cannot be read, without what it holds.

    Args:
        error: One of `UNREADABLE`.

    Returns:
        The line.
    """
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"it is not JSON: {error}"
    return str(error) if isinstance(error, ValueError) else "it is not of the form that magnus writes"


def to_run_log(fragments: Iterable[Tuple[str, str, str]]) -> Optional[RunLog]:
    """Assemble a run log from its fragments.

    A dotted name alone does not tell its parent: a branch of a map is named by a value, which may have dots of its
    own. So the known names settle it. A step's branch is the longest prefix of its name that names a branch; a
    branch's step is the longest that names a step written before it, since magnus fans out before it goes on.

    Args:
        fragments: The fragments of one run, oldest first; of two with one name the later counts.

    Returns:
        The run log with the parameters, steps and branches that are among the fragments; None if the run's own
        fragment is not.
    """
    run_log: Optional[RunLog] = None
    parameters: Dict[str, Any] = {}
    steps: Dict[str, StepLog] = {}
    branches: Dict[str, BranchLog] = {}
    step_of: Dict[str, Optional[str]] = {}
    for kind, name, value in fragments:
        if kind in STEP:
            steps[name] = to_step(value)
        elif kind in BRANCH:
            branches[name] = to_branch(value)
            step_of.setdefault(name, _nearest(name, steps))
        elif kind in PARAMETER:
            parameters[name] = to_value(value)
        elif kind in RUN_LOG:
            run_log = to_header(value)
    if run_log is None:
        return None

    run_log.parameters = parameters
    for name, parent in step_of.items():
        parent = parent or _nearest(name, steps)  # Clocks that once disagreed put it before its step.
        if parent:
            steps[parent].branches[name] = branches[name]
        else:
            del branches[name]  # A run log has no place for it; its steps move up.
    for name, step_log in steps.items():
        branch = _nearest(name, branches)
        (branches[branch] if branch else run_log).steps[name] = step_log
    return run_log


_READERS: Tuple[Tuple[Tuple[str, ...], Callable[[str], Any]], ...] = (
    (RUN_LOG, to_header),
    (STEP, to_step),
    (BRANCH, to_branch),
    (PARAMETER, to_value),
)


def _log(kind: Type[Log], value: str) -> Log:
    try:
        return kind.model_validate_json(value)
    except ValidationError:
        # Half a surrogate pair, or deep nesting, which json wrote and pydantic's faster parser does not read.
        return kind(**json.loads(value))


def _own_of_branch(branch_log: BranchLog) -> Fragment:
    return _fragment(BRANCH, branch_log.internal_name, _json_of, branch_log, "steps")


def _steps_of_branch(branch_log: BranchLog) -> List[Fragment]:
    return [fragment for step_log in branch_log.steps.values() for fragment in of_step(step_log)]


def _nearest(name: str, known: Collection[str]) -> Optional[str]:
    """The longest of the known names that the name continues with a dot."""
    prefix, dot, _ = name.rpartition(".")
    while dot and prefix not in known:
        prefix, dot, _ = prefix.rpartition(".")
    return prefix if dot else None


def _json_of(log: BaseModel, without: str) -> str:
    try:
        text = log.model_dump_json(exclude={without})
    except ValueError:  # half a surrogate pair
        text = ""
    # pydantic, which takes half the time, writes NaN as null, and leaves as it is what is not ASCII.
    if not text or "null" in text or not text.isascii():
        text = json.dumps(log.model_dump(exclude={without}), default=to_jsonable_python)
    return text


def _fragment(kind: Tuple[str, ...], name: str, write: Callable[..., str], *value: Any) -> Fragment:
    """Write a value as JSON, in plain ASCII: so it survives whatever character set a table has."""
    if not isinstance(name, str) or "\0" in name:  # which not every database can hold
        raise TypeError(f"The name of a {kind[0]} is a string without NUL, not {name!r}")
    try:
        return Fragment(kind[0], name, write(*value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"The {kind[0]} '{name}' holds something that JSON cannot: {error}") from error
