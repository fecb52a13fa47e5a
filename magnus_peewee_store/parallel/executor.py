"""`LocalParallel`, the executor `local-parallel`: it runs branches in parallel processes on this machine."""

import logging
import os
from collections import OrderedDict
from datetime import datetime
from functools import partial
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from magnus import defaults, utils
from magnus.datastore import BranchLog, StepAttempt, StepLog
from magnus.extensions.executor.local.implementation import LocalExecutor
from magnus.extensions.nodes import MapNode, ParallelNode, TaskNode
from magnus.graph import Graph
from magnus.nodes import BaseNode
from pydantic import Field, PrivateAttr

from magnus_peewee_store.exceptions import ConfigurationError
from magnus_peewee_store.fragments import ENDED, STEP, parent_branch
from magnus_peewee_store.heartbeat import end_unfinished
from magnus_peewee_store.logs import attempts_of, steps_of
from magnus_peewee_store.parallel import workers
from magnus_peewee_store.parallel.workers import Slots
from magnus_peewee_store.store import DBStore

logger = logging.getLogger("magnus.db")

MapVariable = Optional[Dict[str, Any]]


class _Branch(NamedTuple):
    """A branch of a run, with the graphs to execute for it."""

    name: str
    """The internal name."""
    executions: List[Tuple[Graph, MapVariable]]
    """A graph and its map variable, for each execution. Equal values of a map share a branch. They run one by one."""


class LocalParallel(LocalExecutor):
    """Run the branches of parallel and map nodes in parallel processes on this machine.

    Everything else runs as with magnus' executor `local`. A process executes one branch after the other.

    Args:
        max_workers: How many branches run at once, including those of nested nodes. The default is the number of CPUs.

    Example:
        In magnus' configuration::

            executor:
              type: local-parallel
              config:
                max_workers: 4
            run_log_store:
              type: db
    """

    service_name: str = "local-parallel"
    max_workers: Optional[int] = Field(default=None, ge=1)

    _slots: Optional[Slots] = PrivateAttr(default=None)

    def prepare_for_graph_execution(self) -> None:
        """Check that the pipeline can run in parallel here, then prepare as magnus does."""
        if not hasattr(os, "fork"):
            raise ConfigurationError(
                "The executor 'local-parallel' forks processes, which this operating system cannot do. "
                "Use the executor 'local'."
            )
        store = self._context.run_log_store
        if not isinstance(store, DBStore):
            raise ConfigurationError(
                "The executor 'local-parallel' writes run logs from several processes, so it needs the run log store "
                f"'db', but '{store.service_name}' is configured. Use run_log_store: {{type: db}}, or the executor "
                "'local'."
            )
        conflicts = list(_find_conflicts(self._context.dag)) if self._context.dag else []
        if conflicts:
            raise ConfigurationError(
                f"Steps of parallel branches would overwrite each other's output file: {'; '.join(conflicts)}. "
                "Rename them, so that each step has its own name."
            )
        super().prepare_for_graph_execution()

    def execute_from_graph(self, node: BaseNode, map_variable: MapVariable = None, **kwargs: Any) -> None:
        """Execute a node, and its branches in parallel if it has any."""
        is_skipped = node.is_composite and not self._is_step_eligible_for_rerun(node, map_variable=map_variable)
        branches = [] if is_skipped else self._find_branches(node, map_variable)
        if not branches:
            super().execute_from_graph(node, map_variable=map_variable, **kwargs)
            return
        self.fan_out(node, map_variable=map_variable)
        if self._slots is None:
            self._slots = Slots(self.max_workers or _cpu_count())
        workers.run(
            [partial(self._execute_branch, branch) for branch in branches],
            self._slots,
            on_failure=lambda index, failure: self._fail_branch(branches[index], failure),
            at_end=self._context.run_log_store.close,
        )
        node.fan_in(executor=self, map_variable=map_variable)

    def _find_branches(self, node: BaseNode, map_variable: MapVariable) -> List[_Branch]:
        """Return the branches of a parallel or map node. A map over a value that is not a list has none."""
        if isinstance(node, ParallelNode):
            return [
                _Branch(node._resolve_map_placeholders(name, map_variable), [(graph, map_variable)])
                for name, graph in node.branches.items()
            ]
        if not isinstance(node, MapNode):
            return []
        parameters = self._context.run_log_store.get_parameters(self._context.run_id)
        values = parameters.get(node.iterate_on)
        branches: Dict[str, _Branch] = {}
        for value in values if isinstance(values, list) else []:
            name = node._resolve_map_placeholders(f"{node.internal_name}.{value}", map_variable)
            variable = OrderedDict(map_variable or {}, **{node.iterate_as: value})
            branches.setdefault(name, _Branch(name, [])).executions.append((node.branch, variable))
        return list(branches.values())

    def _execute_branch(self, branch: _Branch) -> None:
        store, run_id = self._context.run_log_store, self._context.run_id
        for number, (graph, map_variable) in enumerate(branch.executions):
            # The next execution would overwrite the log of a failed one.
            if number and store.get_branch_log(branch.name, run_id).status == defaults.FAIL:
                return
            self.execute_graph(graph, map_variable=map_variable)

    def _fail_branch(self, branch: _Branch, failure: workers.JobResult) -> None:
        """Fail a branch whose process did not record its end, and log the reason."""
        store, run_id = self._context.run_log_store, self._context.run_id
        logger.error("The branch '%s' failed. %s", branch.name, failure.reason)
        steps = {step.internal_name: step for step in steps_of(store.get_run_log_by_id(run_id, full=True))}
        branch_logs = (step.branches[branch.name] for step in steps.values() if branch.name in step.branches)
        branch_log = next(branch_logs, None)
        if branch_log is None or branch_log.status in ENDED:
            return
        changes_of = partial(_failure_changes, failure, steps)
        ended = end_unfinished(store.table, run_id, changes_of, names={*_names_in(branch.name, branch_log)})
        for step in steps.values():
            is_failed = step.status == defaults.FAIL and parent_branch(step.internal_name) in ended
            if is_failed and step.attempts and not step.attempts[-1].message:
                step.attempts[-1].message = failure.reason  # magnus writes no message for sys.exit().
                store.add_step_log(step, run_id)
        # magnus, too, executes the fail node of a branch that failed.
        graph, map_variable = branch.executions[-1]
        fail_node = graph.get_fail_node()
        self.execute_from_graph(fail_node, map_variable=map_variable)
        step_log = store.get_step_log(fail_node._get_step_log_name(map_variable), run_id)
        step_log.message = failure.reason
        store.add_step_log(step_log, run_id)


def _names_in(name: str, branch_log: BranchLog) -> Iterator[str]:
    """Yield the internal names of a branch, and of the steps and branches in it. A dotted name alone does not tell."""
    yield name
    for step_name, step_log in branch_log.steps.items():
        yield step_name
        for inner_name, inner_log in step_log.branches.items():
            yield from _names_in(inner_name, inner_log)


def _failure_changes(
    failure: workers.JobResult, steps: Mapping[str, StepLog], attribute_type: str, log: Dict[str, Any]
) -> Dict[str, Any]:
    """Return what changes in an unfinished log, to record why it failed. A step without branches gets an attempt."""
    if attribute_type not in STEP:
        return {}
    name = log["internal_name"]
    if name in steps and steps[name].branches:
        return {"message": failure.reason}
    # A step begins when the one before it has ended.
    before = (step for step in steps.values() if parent_branch(step.internal_name) == parent_branch(name))
    started = max((each.end_time for each in attempts_of(before) if each.end_time), default=str(failure.started))
    now = str(datetime.now())
    attempt = StepAttempt(
        attempt_number=len(log["attempts"]) + 1,
        start_time=started,
        end_time=now,
        duration=utils.get_duration_between_datetime_strings(started, now),
        message=failure.reason,
    )
    return {"attempts": [*log["attempts"], attempt.model_dump()]}


def _find_conflicts(graph: Graph) -> Iterator[str]:
    """Describe the tasks of parallel branches whose output magnus collects in the same file."""
    for node in graph.nodes.values():
        branches = _graphs_of(node)
        writers: Dict[Tuple[str, bool], List[List[str]]] = {}
        for branch in branches:
            yield from _find_conflicts(branch)
            if isinstance(node, ParallelNode):
                for file, tasks in _output_files(branch).items():
                    writers.setdefault(file, []).append(tasks)
        for (name, _), tasks_of_branches in writers.items():
            if len(tasks_of_branches) > 1:
                names = [f"'{task}'" for tasks in tasks_of_branches for task in tasks]
                yield f"{' and '.join(names)} write '{name}.execution.log'"


def _output_files(graph: Graph, is_mapped: bool = False) -> Dict[Tuple[str, bool], List[str]]:
    """Return the internal names of a graph's tasks by the file that `magnus.tasks` collects their output in.

    A key has two parts: the task's name as the file name contains it, and whether the value of a map follows it. These
    values are not known before the run. So tasks of two maps count as writing the same file.
    """
    files: Dict[Tuple[str, bool], List[str]] = {}
    for node in graph.nodes.values():
        if isinstance(node, TaskNode):
            task = node.internal_name.replace(defaults.MAP_PLACEHOLDER, "*")
            files.setdefault((node.name.replace(" ", "_"), is_mapped), []).append(task)
        for branch in _graphs_of(node):
            for file, tasks in _output_files(branch, is_mapped or isinstance(node, MapNode)).items():
                files.setdefault(file, []).extend(tasks)
    return files


def _graphs_of(node: BaseNode) -> List[Graph]:
    if isinstance(node, ParallelNode):
        return list(node.branches.values())
    branch = getattr(node, "branch", None)
    return [branch] if isinstance(branch, Graph) else []


def _cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
