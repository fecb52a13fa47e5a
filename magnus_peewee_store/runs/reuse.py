"""Complete the log of a re-run with what its reused steps logged in the original run.

magnus' re-run (`--use-cached`) does not repeat the steps that succeeded before. It logs them as `mock`, without
metrics, data and branches. Those are in the log of the original run, or of that run's own original run, and so on.
"""

from typing import Callable, Dict, Optional, Tuple, TypeVar, Union

from magnus.datastore import BranchLog, RunLog, StepLog

from magnus_peewee_store import fragments

Log = TypeVar("Log", BranchLog, RunLog)


def complete(run_log: RunLog, read: Callable[[str], Optional[RunLog]]) -> Tuple[RunLog, Dict[str, str]]:
    """Complete a run log with the metrics, data and branches of its reused steps.

    The steps in reused branches have no attempts, because they did not run in this run.

    Args:
        read: Returns the log of an original run; None if the run is unknown.

    Returns:
        A copy of the run log, or the run log itself if it has no reused steps. Also the id of the run that each reused
        step ran in, by the step's internal name.
    """
    chain = [run_log]
    while has_reused_steps(chain[-1]) and chain[-1].original_run_id not in [each.run_id for each in chain]:
        original = read(str(chain[-1].original_run_id))
        if original is None:
            break
        chain.append(original)
    # The last run of the chain is the oldest. From there on, each run completes the next.
    completed, reused = chain.pop(), {}
    if has_reused_steps(completed):
        names = [step.internal_name for step in _steps_of(completed).values() if step.mock]
        reused = dict.fromkeys(names, str(completed.original_run_id))
    while chain:
        steps = _steps_of(completed)
        run_ids = {name: reused.get(name, completed.run_id) for name in steps}
        completed, reused = _fill(chain.pop(), steps), {}
        for step in _steps_of(completed).values():
            if step.mock:
                reused[step.internal_name] = run_ids.get(step.internal_name, str(completed.original_run_id))
    return completed, reused


def has_reused_steps(run_log: RunLog) -> bool:
    """Return True if a run is a re-run with steps that it did not repeat."""
    return bool(run_log.original_run_id) and any(step.mock for step in _steps_of(run_log).values())


def _fill(log: Log, originals: Dict[str, StepLog]) -> Log:
    """Return a copy of a log in which the reused steps have what the original steps logged."""
    steps = {}
    for name, step in log.steps.items():
        original = originals.get(step.internal_name)
        if step.mock and original:
            found = {
                "user_defined_metrics": original.user_defined_metrics,
                "data_catalog": original.data_catalog,
                "branches": {key: _mark_reused(branch) for key, branch in original.branches.items()},
            }
            steps[name] = step.model_copy(update=found)
        else:
            branches = {key: _fill(branch, originals) for key, branch in step.branches.items()}
            steps[name] = step.model_copy(update={"branches": branches})
    return log.model_copy(update={"steps": steps})


def _mark_reused(branch: BranchLog) -> BranchLog:
    steps = {}
    for name, step in branch.steps.items():
        branches = {key: _mark_reused(inner) for key, inner in step.branches.items()}
        is_mock = step.step_type not in fragments.TERMINAL_STEP_TYPES
        steps[name] = step.model_copy(update={"mock": is_mock, "attempts": [], "branches": branches})
    return branch.model_copy(update={"steps": steps})


def _steps_of(log: Union[BranchLog, RunLog]) -> Dict[str, StepLog]:
    steps = {}
    for step in log.steps.values():
        steps[step.internal_name] = step
        for branch in step.branches.values():
            steps.update(_steps_of(branch))
    return steps
