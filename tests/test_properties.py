"""Properties that hold for any run log and any sequence of calls."""

import contextlib
import json
import tempfile
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterator, List, Tuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from magnus import exceptions
from magnus.datastore import BaseRunLogStore, BranchLog, RunLog, StepLog
from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

from magnus_peewee_store import DBStore, fragments

STATUS = st.sampled_from(["CREATED", "PROCESSING", "SUCCESS", "FAIL"])
ANY_CHARACTER = st.characters(codec=None, exclude_categories=())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(ANY_CHARACTER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(ANY_CHARACTER), inner, max_size=3),
    max_leaves=5,
)
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
NODE = NAME.map(lambda name: name.replace(".", "_"))  # magnus forbids dots in node names, not in branch names
PARAMETERS = st.dictionaries(NAME, JSON, max_size=4)


def as_text(value: Any) -> str:
    """Serialize a value for comparison. Unlike with `==`, NaN equals NaN, 1 differs from True, and key order counts."""
    return json.dumps(value.model_dump() if hasattr(value, "model_dump") else value)


@st.composite
def steps_of(draw: Any, prefix: str, depth: int) -> "OrderedDict[str, StepLog]":
    steps: OrderedDict[str, StepLog] = OrderedDict()
    for node in draw(st.lists(NODE, max_size=3, unique=True)):
        name = prefix + node
        values = draw(st.lists(NAME | st.sampled_from(["jan.csv", "1.5"]), max_size=2, unique=True)) if depth else []
        steps[name] = StepLog(
            name=node,
            internal_name=name,
            status=draw(STATUS),
            user_defined_metrics=draw(PARAMETERS),
            branches={
                f"{name}.{value}": BranchLog(
                    internal_name=f"{name}.{value}",
                    status=draw(STATUS),
                    steps=draw(steps_of(f"{name}.{value}.", depth - 1)),
                )
                for value in values
            },
        )
    return steps


@st.composite
def run_logs(draw: Any) -> RunLog:
    return RunLog(
        run_id="run",
        tag=draw(st.none() | NAME),
        status=draw(STATUS),
        parameters=draw(PARAMETERS),
        run_config=draw(PARAMETERS),
        steps=draw(steps_of("", depth=2)),
    )


def nodes_and_values(steps: Dict[str, StepLog]) -> Iterator[Tuple[str, str]]:
    for name, step_log in steps.items():
        for branch_name, branch_log in step_log.branches.items():
            yield step_log.name, branch_name[len(name) + 1 :]
            yield from nodes_and_values(branch_log.steps)
        yield step_log.name, ""


def is_unambiguous(run_log: RunLog) -> bool:
    """Return False if a branch value has a node name after a dot: map.a.b may be node b in branch a, or value a.b."""
    nodes = {node for node, _ in nodes_and_values(run_log.steps)}
    return not any(nodes & set(value.split(".")[1:]) for _, value in nodes_and_values(run_log.steps))


@given(run_logs().filter(is_unambiguous))
def test_fragments_round_trip(run_log: RunLog) -> None:
    assert as_text(fragments.to_run_log(fragments.dump_run_log(run_log))) == as_text(run_log)


@given(run_logs())
def test_fragment_values_are_ascii(run_log: RunLog) -> None:
    assert all(fragment.attribute_value.isascii() for fragment in fragments.dump_run_log(run_log))


@settings(max_examples=30)
@given(st.lists(run_logs().filter(is_unambiguous), min_size=1, max_size=3))
def test_database_round_trip(run_logs: List[RunLog]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = DBStore(connection_string=f"sqlite:///{folder}/runs.db")
        try:
            for number, run_log in enumerate(run_logs):
                run_log.run_id = str(number)
                store.put_run_log(run_log)
            for run_log in run_logs:
                assert as_text(store.get_run_log_by_id(run_log.run_id, full=True)) == as_text(run_log)
        finally:
            store.close()


class SameAsFileSystem(RuleBasedStateMachine):
    """Any sequence of calls has the same effect as in magnus' `file-system` store, where that store is correct.

    That store does not support dots in branch names. It raises KeyError for a missing step or branch.
    """

    NAMES = st.sampled_from(["a", "A", "b", "a ", "e\u0301", "\u00e9"])
    RUNS = st.sampled_from(["run", "RUN"])

    @initialize()
    def create_stores(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.stores: List[BaseRunLogStore] = [
            DBStore(connection_string=f"sqlite:///{self.folder.name}/runs.db"),
            FileSystemRunLogstore(log_folder=self.folder.name),
        ]
        self.steps = {"run": [], "RUN": []}  # type: Dict[str, List[str]]
        self.branches = {"run": [], "RUN": []}  # type: Dict[str, List[str]]

    def teardown(self) -> None:
        self.stores[0].close()
        self.folder.cleanup()

    def assert_same(self, call: Callable[[BaseRunLogStore], Any]) -> None:
        """Make the call on both stores. Assert that both return the same result or raise the same error."""
        results = []
        for store in self.stores:
            try:
                results.append(as_text(call(store)))
            except (KeyError, exceptions.StepLogNotFoundError, exceptions.BranchLogNotFoundError):
                results.append("no such step or branch")
            except exceptions.RunLogNotFoundError:
                results.append("no such run")
            except exceptions.RunLogExistsError:
                results.append("run already exists")
        assert results[0] == results[1]

    @rule(run=RUNS, tag=NAMES)
    def create_run_log(self, run: str, tag: str) -> None:
        self.assert_same(lambda store: store.create_run_log(run, tag=tag))

    @rule(run=RUNS, parameters=PARAMETERS)
    def set_parameters(self, run: str, parameters: Dict[str, Any]) -> None:
        self.assert_same(lambda store: store.set_parameters(run, parameters))

    @rule(run=RUNS, config=PARAMETERS)
    def set_run_config(self, run: str, config: Dict[str, Any]) -> None:
        self.assert_same(lambda store: store.set_run_config(run, config))

    @rule(run=RUNS, status=STATUS)
    def update_run_log_status(self, run: str, status: str) -> None:
        self.assert_same(lambda store: store.update_run_log_status(run, status))

    @rule(run=RUNS, status=STATUS)
    def finish(self, run: str, status: str) -> None:
        def call(store: BaseRunLogStore) -> None:
            run_log = store.get_branch_log("", run)
            run_log.status = status
            store.add_branch_log(run_log, run)

        self.assert_same(call)

    @rule(run=RUNS, data=st.data(), node=NAMES, metrics=PARAMETERS)
    def add_step_log(self, run: str, data: Any, node: str, metrics: Dict[str, Any]) -> None:
        branch = data.draw(st.sampled_from(["", "nowhere.x", *self.branches[run]]))
        name = f"{branch}.{node}" if branch else node
        if name not in self.steps[run]:
            new = StepLog(name=node, internal_name=name, user_defined_metrics=metrics)
            self.assert_same(lambda store: store.add_step_log(new.model_copy(deep=True), run))
            self.refresh_names(run)

    @rule(run=RUNS, data=st.data(), status=STATUS, metrics=PARAMETERS)
    def change_step_log(self, run: str, data: Any, status: str, metrics: Dict[str, Any]) -> None:
        name = data.draw(st.sampled_from(["nowhere", *self.steps[run]]))

        def call(store: BaseRunLogStore) -> Any:
            step_log = store.get_step_log(name, run)
            step_log.status = status
            step_log.user_defined_metrics.update(metrics)
            store.add_step_log(step_log, run)
            return step_log.model_dump(exclude={"branches"})

        self.assert_same(call)

    @rule(run=RUNS, data=st.data(), value=NAMES)
    def add_branch_log(self, run: str, data: Any, value: str) -> None:
        if self.steps[run]:
            name = f"{data.draw(st.sampled_from(self.steps[run]))}.{value}"
            if name not in self.branches[run]:
                self.assert_same(lambda store: store.add_branch_log(store.create_branch_log(name), run))
                self.refresh_names(run)

    @rule(run=RUNS, data=st.data(), status=STATUS)
    def change_branch_log(self, run: str, data: Any, status: str) -> None:
        if self.branches[run]:
            name = data.draw(st.sampled_from(self.branches[run]))

            def call(store: BaseRunLogStore) -> Any:
                branch_log = store.get_branch_log(name, run)
                branch_log.status = status
                store.add_branch_log(branch_log, run)
                return branch_log.model_dump(exclude={"steps"})

            self.assert_same(call)

    def refresh_names(self, run: str) -> None:
        """Read the names of all steps and branches from the oracle."""

        def visit(steps: Dict[str, StepLog]) -> None:
            for name, step_log in steps.items():
                self.steps[run].append(name)
                for branch_name, branch_log in step_log.branches.items():
                    self.branches[run].append(branch_name)
                    visit(branch_log.steps)

        self.steps[run], self.branches[run] = [], []
        with contextlib.suppress(exceptions.RunLogNotFoundError):
            visit(self.stores[1].get_run_log_by_id(run, full=True).steps)

    @rule(run=RUNS)
    def read(self, run: str) -> None:
        self.assert_same(lambda store: store.get_parameters(run))
        self.assert_same(lambda store: store.get_run_config(run))
        self.assert_same(lambda store: store.get_run_log_by_id(run, full=True))

    @invariant()
    def stores_have_same_run_logs(self) -> None:
        for run in ("run", "RUN"):
            self.assert_same(lambda store, run=run: store.get_run_log_by_id(run, full=True))  # type: ignore[misc]


SameAsFileSystem.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestSameAsFileSystem = SameAsFileSystem.TestCase
