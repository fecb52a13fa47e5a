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
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.parallel import workers
from magnus_peewee_store.parallel.workers import Slots
from magnus_peewee_store.store import DBStore

logger = logging.getLogger("magnus.db")

MapVariable = Optional[Dict[str, Any]]

# The run log stores of magnus that do not suit several processes, and why.
UNSUITABLE_STORES = {
    "buffered": "keeps run logs in the memory of one process",
    "file-system": "loses what several processes write at once",
    "chunked-fs": "loses what several processes write at once",
}


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
        """Check that the pipeline can run in parallel here, then prepare as magnus does.

        Raises:
            ConfigurationError: If processes cannot be forked here, the run log store does not suit several
                processes, or steps of parallel branches would write the same file.
        """
        if not hasattr(os, "fork"):
            raise ConfigurationError(
                "The executor 'local-parallel' forks processes, which this operating system cannot do. "
                "Use the executor 'local'."
            )
        store_name = self._context.run_log_store.service_name
        if store_name in UNSUITABLE_STORES:
            raise ConfigurationError(
                f"The executor 'local-parallel' needs a run log store that several processes can write at once, but "
                f"'{store_name}' {UNSUITABLE_STORES[store_name]}. "
                "Use run_log_store: {type: db}, or the executor 'local'."
            )
        conflicts = list(_find_conflicts(self._context.dag)) if self._context.dag else []
        if conflicts:
            raise ConfigurationError(
                f"Steps of parallel branches would overwrite each other's output file: {'; '.join(conflicts)}. "
                "Rename them, so that each step has its own name."
            )
        super().prepare_for_graph_execution()

    def execute_from_graph(self, node: BaseNode, map_variable: MapVariable = None, **kwargs: Any) -> None:
        """Execute a node, and its branches in parallel if it has any.

        Args:
            map_variable: The values of the maps around the node, by name.
        """
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
            at_end=self._close_store,
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

    def _close_store(self) -> None:
        store = self._context.run_log_store
        if isinstance(store, DBStore):
            store.close()

    def _fail_branch(self, branch: _Branch, failure: workers.Failure) -> None:
        """Fail a branch whose process did not record its end, and log the reason."""
        store, run_id = self._context.run_log_store, self._context.run_id
        logger.error("The branch '%s' failed. %s", branch.name, failure.reason)
        branch_log = _find_branch_log(store.get_run_log_by_id(run_id, full=True).steps, branch.name)
        if branch_log is None or branch_log.status in ENDED:
            return
        _fail_unfinished_steps(branch_log, failure)
        store.add_branch_log(branch_log, run_id)
        # magnus, too, executes the fail node of a branch that failed.
        graph, map_variable = branch.executions[-1]
        fail_node = graph.get_fail_node()
        self.execute_from_graph(fail_node, map_variable=map_variable)
        step_log = store.get_step_log(fail_node._get_step_log_name(map_variable), run_id)
        step_log.message = failure.reason
        store.add_step_log(step_log, run_id)


def _fail_unfinished_steps(branch_log: BranchLog, failure: workers.Failure) -> None:
    """Fail the unfinished steps of a branch, and the unfinished branches in them."""
    now = datetime.now()
    ends = [attempt.end_time for step in branch_log.steps.values() for attempt in step.attempts if attempt.end_time]
    started = max(ends, default=str(failure.started))  # A step begins when the one before it has ended.
    for step_log in branch_log.steps.values():
        for inner in step_log.branches.values():
            if inner.status not in ENDED:
                _fail_unfinished_steps(inner, failure)
                inner.status = defaults.FAIL
        if step_log.status not in ENDED:
            step_log.status = defaults.FAIL
            if step_log.branches:
                step_log.message = failure.reason
            else:
                step_log.attempts.append(
                    StepAttempt(
                        attempt_number=len(step_log.attempts) + 1,
                        start_time=started,
                        end_time=str(now),
                        duration=utils.get_duration_between_datetime_strings(started, str(now)),
                        message=failure.reason,
                    )
                )
        elif step_log.status == defaults.FAIL and step_log.attempts and not step_log.attempts[-1].message:
            step_log.attempts[-1].message = failure.reason  # magnus writes no message for sys.exit().


def _find_branch_log(steps: Mapping[str, StepLog], name: str) -> Optional[BranchLog]:
    for step_log in steps.values():
        for branch_name, branch_log in step_log.branches.items():
            found = branch_log if branch_name == name else _find_branch_log(branch_log.steps, name)
            if found:
                return found
    return None


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

    Returns:
        A key has two parts: the task's name as the file name contains it, and whether the value of a map follows it.
        These values are not known before the run. So tasks of two maps count as writing the same file.
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
