"""Test the executor local-parallel: the same run logs as `local`, failures, Ctrl-C, re-runs, output and refusals.

The proofs that are repeated run PARALLEL_REPEAT times each, once by default. The full number is 20.
"""

import copy
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from conftest import AnyDatabase, Project, database_for
from magnus import context
from magnus.datastore import RunLog
from test_executors import assert_rejected
from test_pipelines import DB, END, EVERY_NODE_TYPE, FUNCTIONS, mapped, parallel, python, run_log, without_times
from test_pipelines import dag as dag_of
from test_workers import wait_for, wait_until_gone

from magnus_peewee_store import ConfigurationError, DBStore, fragments, runs
from magnus_peewee_store.parallel.executor import LocalParallel

REPEAT = int(os.environ.get("PARALLEL_REPEAT", "1"))

PARALLEL: Dict[str, Any] = {"executor": {"type": "local-parallel", "config": {"max_workers": 4}}, **DB}
STUB = {"type": "stub"}

WAITING = """
import json, os, signal, sys, threading, time
from pathlib import Path
from magnus import track_this, get_secret
from pydantic import BaseModel, create_model

def wait_for(*names):
    for _ in range(6000):
        if all(Path(name).exists() for name in names):
            return
        threading.Event().wait(0.01)
    raise TimeoutError(names)

def started(file: str):
    Path(f"{file}.tmp").write_text(str(os.getpid()))
    os.rename(f"{file}.tmp", f"{file}.pid")

def wait_for_go(file: str):
    started(file)
    wait_for("go")
    track_this(size=len(file))

def end_badly(file: str):
    {"raise": lambda: 1 / 0, "exit": lambda: sys.exit(3), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
     "leave": lambda: os._exit(0)}.get(file, str)()

def record_state(file: str):
    environment = {name: value for name, value in os.environ.items() if name != "MAGNUS_MAP_VARIABLE"}
    Path(f"{file}.json").write_text(json.dumps([os.getpid(), environment, os.getcwd(), sys.path]))
    os.environ["ADDED"] = file
    sys.path.insert(0, file)
    raise ValueError(file)

def fail_for_first_a(file: str):
    if file == "a" and not Path("first a").exists():
        Path("first a").touch()
        raise ValueError(file)

def note_value():
    value = json.loads(os.environ["MAGNUS_MAP_VARIABLE"])["file"]
    with open("values", "a") as values:
        values.write(f"{os.getpid()} {value!r}\\n")

def end_in_turn(file: str):
    from magnus_peewee_store import DBStore
    if file == "a":
        os.kill(os.getpid(), signal.SIGKILL)
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    while store.get_branch_log("each.a", "run").status != "FAIL":
        threading.Event().wait(0.01)
    os._exit(7)

def kill_outer(file: str):
    os.kill(os.getppid(), signal.SIGKILL)
    wait_for("what never comes")

def write_lines(file: str):
    import logging
    started(file)
    wait_for("a.pid", "b.pid")
    for number in range(100):
        print(f"<printed {file} {number} {'x' * 100}>")
        os.write(1, f"<written {file} {number} ".encode())
        os.write(1, f"{'y' * 100}>\\n".encode())
    logging.getLogger("magnus").warning("<logged %s>", file)

def add_left(left: int):
    return meet("left", left=(int, left + 1))

def add_right(right: int):
    return meet("right", right=(int, right + 1))

def meet(own, **changed):
    Path(own).touch()
    wait_for("left", "right")
    return create_model("Changed", **changed)()

def forget_meeting():
    Path("left").unlink()
    Path("right").unlink()
"""


def dag(**steps: Any) -> Dict[str, Any]:
    """Return a graph of copies of the steps, in the given order."""
    return dag_of(**{name: copy.deepcopy(step) for name, step in steps.items()})


@pytest.fixture(params=["sqlite", "postgresql+psycopg"])
def shared_database(request: pytest.FixtureRequest, tmp_path: Path, server_databases: Any) -> Iterator[AnyDatabase]:
    """Run the test on SQLite and on PostgreSQL."""
    yield from database_for(request.param, tmp_path, server_databases)


def config(executor: Any, database: AnyDatabase) -> Dict[str, Any]:
    store = {"type": "db", "config": {"connection_string": database.url}}
    return {"executor": executor, "run_log_store": store}


def read(database: AnyDatabase, run_id: str) -> RunLog:
    store = DBStore(connection_string=database.url)
    try:
        return store.get_run_log_by_id(run_id, full=True)
    finally:
        store.close()


def is_healthy(url: str) -> bool:
    store = DBStore(connection_string=url)
    try:
        return runs.check(store).is_healthy
    finally:
        store.close()


# The same run logs as with `local`

# The pipelines of magnus' examples: map.yaml, map_shell.yaml, parallel.yaml and nesting.yaml in concepts, and
# default-fail.yaml, on-failure.yaml and parallel-fail.yaml.
CHUNKS = mapped("chunks", dag(execute=python("process_chunk")), "start_index")
SHELL_CHUNKS = mapped(
    "chunks",
    dag(
        execute={
            "type": "task",
            "command_type": "shell",
            "command": "echo $MAGNUS_PRM_stride\necho $MAGNUS_MAP_VARIABLE\n",
        }
    ),
    "start_index",
)
EXPORT_CHUNKS = "export MAGNUS_PRM_stride=10 &&\nexport MAGNUS_PRM_chunks='[0, 10, 20, 30, 40]'\n"
FAILING = {"type": "task", "command_type": "shell", "command": "exit 1"}
INNERMOST = {"inner most map": mapped("array", dag(executable=STUB), "yarg")}
EXAMPLES = {
    "map": dag(**{"chunk files": python("chunk_files"), "iterate and execute": CHUNKS}),
    "map_shell": dag(
        **{
            "chunk files": {"type": "task", "command_type": "shell", "command": EXPORT_CHUNKS},
            "iterate and execute": SHELL_CHUNKS,
        }
    ),
    "parallel": dag(
        **{
            "Get Features": STUB,
            "Train Models": parallel(
                **{
                    "XGBoost": dag(**{"Prepare for XGBoost": STUB, "Train XGBoost": STUB}),
                    "RF model": dag(**{"Train RF Model": STUB}),
                }
            ),
            "Ensemble Modelling": STUB,
        }
    ),
    "nesting": dag(
        generate_list={"type": "task", "command_type": "shell", "command": 'export MAGNUS_PRM_array="[0, 1]"'},
        outer=mapped("array", dag(**{"nested parallel": parallel(a=dag(**INNERMOST), b=dag(**INNERMOST))}), "xarg"),
    ),
    "default-fail": dag(**{"step 1": STUB, "step 2": FAILING, "step 3": STUB}),
    "on-failure": dag(**{"step 1": {**FAILING, "on_failure": "step 3"}, "step 2": STUB, "step 3": STUB}),
    "parallel-fail": dag(
        **{
            "step 1": STUB,
            "step 2": parallel(
                branch_a=dag(**{"step 1": FAILING, "step 2": STUB}), branch_b=dag(**{"step 1": STUB, "step 2": STUB})
            ),
            "step 3": STUB,
        }
    ),
}
EXAMPLE_FUNCTIONS = """
from typing import List
from pydantic import create_model

def chunk_files():
    return create_model("DynamicModel", chunks=(List[int], list(range(0, 50, 10))), stride=(int, 10))()

def two_chunks():
    return create_model("DynamicModel", chunks=(List[int], [0, 10]), stride=(int, 10))()

def process_chunk(stride: int, start_index: int):
    print("stride", stride, "start_index", start_index)
"""
EXECUTE_REPEATEDLY = """
import shutil, sys
from magnus import entrypoints
from magnus.exceptions import ExecutionFailedError

names, repeat, executor = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]
for name in names:
    for number in range(repeat):
        shutil.rmtree(".catalog", ignore_errors=True)
        try:
            entrypoints.execute(
                configuration_file=f"{executor}.yaml",
                pipeline_file=f"{name}.yaml",
                run_id=f"{executor} {name} {number}",
            )
        except ExecutionFailedError:
            pass
"""


def differences(a: Any, b: Any, path: str = "") -> List[str]:
    """Return the places where two values differ."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [line for key in a for line in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for index in range(len(a)) for line in differences(a[index], b[index], f"{path}/{index}")]
    return [] if json.dumps(a) == json.dumps(b) else [f"{path}: {a} != {b}"]


def assert_same(log: RunLog, other: RunLog) -> None:
    """Check that two runs of one pipeline differ in nothing but their ids and times."""
    assert differences(without_run_id(log), without_run_id(other)) == []


def without_run_id(log: RunLog) -> Any:
    """Return a run log as a dict without the values that differ between runs of one pipeline."""
    text = json.dumps(without_times(log)).replace(json.dumps(log.run_id)[1:-1], "RUN")
    # What a shell step prints contains the run id.
    return json.loads(re.sub(r'("name": "[^"]*\.execution\.log[^"]*", "data_hash"): "[^"]*"', r'\1: ""', text))


def test_examples_of_magnus_end_as_with_local(project: Project, shared_database: AnyDatabase) -> None:
    project.write(
        functions_py=EXAMPLE_FUNCTIONS,
        execute_py=EXECUTE_REPEATEDLY,
        **{f"{name}_yaml": {"dag": pipeline} for name, pipeline in EXAMPLES.items()},
        local_yaml=config({"type": "local"}, shared_database),
        executor_yaml=config(PARALLEL["executor"], shared_database),
    )
    names = ",".join(EXAMPLES)
    for executor, repeat in (("local", 1), ("executor", REPEAT)):
        project.python("execute.py", names, str(repeat), executor)
    for name in EXAMPLES:
        expected = read(shared_database, f"local {name} 0")
        assert expected.status == ("FAIL" if name in ("default-fail", "parallel-fail") else "SUCCESS")
        for number in range(REPEAT):
            assert_same(read(shared_database, f"executor {name} {number}"), expected)
    assert is_healthy(shared_database.url)


SDK = """
from magnus import Map, Parallel, Pipeline, Stub, Task

def one(step):
    return Pipeline(steps=[step], start_at=step)

generate = Task(name="generate list", command="functions.two_chunks")
innermost = Map(name="innermost", branch=one(Stub(name="executable", terminate_with_success=True)),
                iterate_on="chunks", iterate_as="y", terminate_with_success=True)
split = Parallel(name="split", branches={"a": one(innermost), "b": one(innermost)}, terminate_with_success=True)
outermost = Map(name="outermost", branch=one(split), iterate_on="chunks", iterate_as="x", terminate_with_success=True)
generate >> outermost
pipeline = Pipeline(steps=[generate, outermost], start_at=generate)
for executor in ("local", "executor"):
    log = pipeline.execute(configuration_file=f"{executor}.yaml", run_id=executor)
    assert (log.status, log.parameters["stride"]) == ("SUCCESS", 10)
"""


def test_sdk_pipeline_ends_as_with_local(project: Project) -> None:
    project.write(functions_py=EXAMPLE_FUNCTIONS, sdk_py=SDK, local_yaml=DB, executor_yaml=PARALLEL)
    project.python("sdk.py")
    assert_same(run_log(project, "executor"), run_log(project, "local"))


def test_every_node_type_ends_as_with_local(project: Project) -> None:
    pipeline = copy.deepcopy(EVERY_NODE_TYPE)
    # This step would change a parameter while the other branch reads it.
    pipeline["steps"]["split"]["branches"]["left"]["steps"]["get"]["command"] = "functions.secret"
    pipeline["steps"]["each"]["next"] = "end"
    pipeline["steps"]["end"] = {**parallel(one=dag(secret=python("secret"))), "next": "success"}
    project.write(
        functions_py=FUNCTIONS + "\nfrom magnus import get_secret\ndef secret(): assert get_secret('key') == 'value'\n",
        pipeline_yaml={"dag": pipeline},
        sub_yaml={"dag": dag(inside=STUB, again=parallel(one=dag(wait=STUB)))},
        parameters_yaml={"rows": 2, "given": "at the start"},
        _env="key=value\n",
    )
    for name, content in (("local", DB), ("executor", PARALLEL)):
        project.write(config_yaml={**content, "secrets": {"type": "dotenv"}})
        project.execute(name, "-p", "parameters.yaml", "--tag", "nightly")
        shutil.rmtree(str(project.folder / ".catalog"))
    assert_same(run_log(project, "executor"), run_log(project, "local"))


@pytest.mark.parametrize("files", [["jan.csv", "1.5", "in/out"], [1, True, None], ["a", "a", "b"], []])
def test_map_over_any_values_ends_as_with_local(project: Project, files: List[Any]) -> None:
    project.write(
        pipeline_yaml={"dag": dag(each=mapped("files", dag(one=STUB, inner=mapped("files", dag(two=STUB), "other"))))},
        parameters_yaml={"files": files},
    )
    for name, content in (("local", DB), ("executor", PARALLEL)):
        project.write(config_yaml=content)
        project.execute(name, "-p", "parameters.yaml")
    assert_same(run_log(project, "executor"), run_log(project, "local"))


@pytest.mark.parametrize("parameters", [{"other": 1}, {"files": "abc"}])
def test_map_over_no_list_fails_as_with_local(project: Project, parameters: Dict[str, Any]) -> None:
    project.write(pipeline_yaml={"dag": dag(each=mapped("files", dag(one=STUB)))}, parameters_yaml=parameters)
    for name, content in (("local", DB), ("executor", PARALLEL)):
        project.write(config_yaml=content)
        output = project.execute(name, "-p", "parameters.yaml", fails=True)
        assert "was it ever set before" in output or "Only list is allowed" in output
    assert_same(run_log(project, "executor"), run_log(project, "local"))


# Failures and re-runs


def test_each_failed_branch_says_why_and_the_others_finish(project: Project) -> None:
    reasons = {
        "raise": "division by zero",
        "exit": "It called sys.exit(3).",
        "kill": "The process was killed by SIGKILL. Linux does that when memory runs out.",
        "leave": "The process exited with code 0 before the end.",
    }
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["good", *reasons, "fine"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("end_badly"), after=STUB)))},
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    log = run_log(project, "run")
    branches = log.steps["each"].branches
    assert (log.status, log.steps["each"].status, log.steps["fail"].status) == ("FAIL", "FAIL", "SUCCESS")
    for file in ("good", "fine"):
        assert [each.status for each in branches[f"each.{file}"].steps.values()] == ["SUCCESS"] * 3
        assert branches[f"each.{file}"].status == "SUCCESS"
    for file, reason in reasons.items():
        branch = branches[f"each.{file}"]
        work = branch.steps[f"each.{file}.work"]
        assert (branch.status, work.status, list(branch.steps)[1:]) == ("FAIL", "FAIL", [f"each.{file}.fail"])
        assert [attempt.message for attempt in work.attempts] == [reason]
    assert is_healthy(f"sqlite:///{project.folder}/.run_log_store/run_log.db")


def test_killed_branch_takes_the_failure_path_of_its_step(project: Project) -> None:
    each = {**mapped("files", dag(work=python("end_badly"))), "next": "success", "on_failure": "recover"}
    steps = {"each": each, "recover": {**STUB, "next": "success"}, **END}
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["kill"]},
        pipeline_yaml={"dag": {"start_at": "each", "steps": steps}},
    )
    project.execute("run", "-p", "parameters.yaml")
    log = run_log(project, "run")
    assert {name: step.status for name, step in log.steps.items()} == {
        "each": "FAIL",
        "recover": "SUCCESS",
        "success": "SUCCESS",
    }


def test_killed_branch_leaves_one_whose_name_begins_with_its_step(project: Project) -> None:
    project.write(
        functions_py=WAITING,
        config_yaml={**PARALLEL, "executor": {"type": "local-parallel", "config": {"max_workers": 2}}},
        parameters_yaml={"files": ["a", "a.work.b"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("end_in_turn"))))},
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    branch = run_log(project, "run").steps["each"].branches["each.a.work.b"]
    [attempt] = branch.steps["each.a.work.b.work"].attempts
    assert attempt.message == "The process exited with code 7 before the end."
    assert branch.steps["each.a.work.b.fail"].status == "SUCCESS"


def test_killed_branch_fails_the_branches_in_it(project: Project) -> None:
    project.write(
        functions_py=WAITING
        + "\ndef kill_outer(file: str):\n    os.kill(os.getppid(), signal.SIGKILL)\n    wait_for('x')",
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["a"]},
        pipeline_yaml={
            "dag": dag(
                outer=parallel(
                    one=dag(before=STUB, each=mapped("files", dag(work=python("kill_outer")))), two=dag(other=STUB)
                )
            )
        },
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    outer = run_log(project, "run").steps["outer"]
    one, two = outer.branches.values()
    each = one.steps["outer.one.each"]
    inner = each.branches["outer.one.each.a"]
    work = inner.steps["outer.one.each.a.work"]
    assert [log.status for log in (one, two, each, inner, work)] == ["FAIL", "SUCCESS", "FAIL", "FAIL", "FAIL"]
    assert one.steps["outer.one.before"].status == "SUCCESS"
    assert "killed by SIGKILL" in work.attempts[0].message and "killed by SIGKILL" in each.message


def test_rerun_after_a_killed_branch_runs_only_what_did_not_succeed(
    project: Project, shared_database: AnyDatabase
) -> None:
    """Kill a random branch, each time."""
    files = ["a", "b", "c", "d"]
    project.write(
        functions_py=WAITING,
        config_yaml=config(PARALLEL["executor"], shared_database),
        parameters_yaml={"files": files},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(before=STUB, work=python("wait_for_go"))), last=STUB)},
    )
    options = ("-f", "pipeline.yaml", "-c", "config.yaml", "-p", "parameters.yaml", "--run-id")
    for number in range(REPEAT):
        victim = random.choice(files)
        process = project.start("magnus", "execute", *options, f"run {number}")
        pid_files = [project.folder / f"{file}.pid" for file in files]
        wait_for(*pid_files)
        os.kill(int((project.folder / f"{victim}.pid").read_text()), signal.SIGKILL)
        (project.folder / "go").touch()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        log = read(shared_database, f"run {number}")
        expected = {f"each.{file}": "FAIL" if file == victim else "SUCCESS" for file in files}
        assert {name: branch.status for name, branch in log.steps["each"].branches.items()} == expected
        assert (log.status, log.steps["each"].status) == ("FAIL", "FAIL")
        assert is_healthy(shared_database.url)

        project.execute(f"again {number}", "-p", "parameters.yaml", "--use-cached", f"run {number}")
        again = read(shared_database, f"again {number}")
        assert (again.status, again.steps["last"].status) == ("SUCCESS", "SUCCESS")
        for file in files:
            branch = again.steps["each"].branches[f"each.{file}"]
            before, work, _ = branch.steps.values()
            assert (branch.status, before.mock, work.mock) == ("SUCCESS", True, file != victim)
        for file_of_run in (*pid_files, project.folder / "go"):
            file_of_run.unlink()


def test_rerun_of_a_succeeded_map_starts_no_branch(project: Project) -> None:
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["good"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("end_badly"))), last=FAILING)},
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    project.execute("again", "--use-cached", "run", fails=True)
    each = run_log(project, "again").steps["each"]
    assert (each.status, each.mock, each.branches) == ("SUCCESS", True, {})


def test_ctrl_c_ends_the_branches(project: Project) -> None:
    files = ["a", "b", "c"]
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": files},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("wait_for_go"))))},
    )
    command = ("execute", "-f", "pipeline.yaml", "-c", "config.yaml", "-p", "parameters.yaml", "--run-id", "run")
    process = project.start("magnus", *command)
    wait_for(*(project.folder / f"{file}.pid" for file in files))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Aborted!" in output
    wait_until_gone([int((project.folder / f"{file}.pid").read_text()) for file in files])
    (project.folder / "go").touch()
    project.execute("again", "--use-cached", "run")
    assert run_log(project, "again").status == "SUCCESS"


# What a process keeps from one branch to the next


def test_next_branch_in_a_process_starts_as_the_first_did(project: Project) -> None:
    """magnus itself leaves a map's value in the environment when a task fails, and a folder in the import path."""
    project.write(
        functions_py=WAITING,
        config_yaml={"executor": {"type": "local-parallel", "config": {"max_workers": 1}}, **DB},
        parameters_yaml={"files": ["a", "b", "c"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("record_state"))))},
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    first, *others = [json.loads((project.folder / f"{file}.json").read_text()) for file in "abc"]
    assert others == [first] * 2


def test_each_process_has_one_heartbeat(project: Project) -> None:
    """The process of the pipeline, and two that execute five branches."""
    project.write(
        functions_py=WAITING,
        config_yaml={"executor": {"type": "local-parallel", "config": {"max_workers": 2}}, **DB},
        parameters_yaml={"files": ["a", "b", "c", "d", "e"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("write_lines"))))},
    )
    project.execute("run", "-p", "parameters.yaml")
    store = DBStore(connection_string=f"sqlite:///{project.folder}/.run_log_store/run_log.db")
    assert len(store.table.read("run", fragments.HEARTBEAT)) == 3
    store.close()


def test_equal_values_of_a_map_run_one_after_the_other_as_with_local(project: Project) -> None:
    """They share a branch and a log. The last one counts."""
    values = [1, "1", 2, 1]
    project.write(
        functions_py=WAITING,
        parameters_yaml={"files": values},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("note_value"))))},
    )
    for name, content in (("local", DB), ("executor", PARALLEL)):
        project.write(config_yaml=content)
        project.execute(name, "-p", "parameters.yaml")
        lines = [line.split() for line in (project.folder / "values").read_text().splitlines()]
        assert sorted(value for _, value in lines) == sorted(map(repr, values))
        shared = [(pid, value) for pid, value in lines if value != "2"]
        assert [value for _, value in shared] == ["1", "'1'", "1"]
        assert len({pid for pid, _ in shared}) == 1
        (project.folder / "values").unlink()
        shutil.rmtree(str(project.folder / ".catalog"))
    assert_same(run_log(project, "executor"), run_log(project, "local"))


def test_failure_of_an_equal_value_is_kept(project: Project) -> None:
    """With `local`, the log of the last value replaces it, and the run succeeds."""
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["a", "b", "a"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("fail_for_first_a"))))},
    )
    project.execute("run", "-p", "parameters.yaml", fails=True)
    each = run_log(project, "run").steps["each"]
    assert (each.status, each.branches["each.a"].status, each.branches["each.b"].status) == ("FAIL", "FAIL", "SUCCESS")
    project.execute("again", "-p", "parameters.yaml", "--use-cached", "run")
    assert run_log(project, "again").status == "SUCCESS"


# Parameters and output


def test_parallel_steps_change_other_parameters(project: Project) -> None:
    """Both have read all parameters before either writes. PARALLEL_REPEAT * 5 times: 100 is the full number."""
    steps: Dict[str, Any] = {}
    for number in range(REPEAT * 5):
        left, right = python("add_left"), python("add_right")
        steps[f"split {number}"] = parallel(a=dag(left=left), b=dag(right=right))
        steps[f"forget {number}"] = python("forget_meeting")
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"left": 0, "right": 0},
        pipeline_yaml={"dag": dag(**steps)},
    )
    project.execute("run", "-p", "parameters.yaml")
    assert run_log(project, "run").parameters == {"left": REPEAT * 5, "right": REPEAT * 5}


def test_output_of_branches_is_whole_lines(project: Project) -> None:
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["a", "b"]},
        pipeline_yaml={"dag": dag(each=mapped("files", dag(work=python("write_lines"))))},
    )
    output = project.execute("run", "-p", "parameters.yaml")
    lines = re.findall(r"^<(?:printed|written) .*", output, re.MULTILINE)
    expected = [
        f"<{kind} {file} {number} " for kind in ("printed", "written") for file in "ab" for number in range(100)
    ]
    assert sorted(lines) == sorted(f"{each}{'xy'['written' in each] * 100}>" for each in expected)
    assert output.count("<logged a>") == output.count("<logged b>") == 1
    # magnus catalogs what a step has printed.
    assert (project.folder / ".catalog" / "run" / "work.execution.log_a").read_text().count("<printed a") == 100


# Refused before anything runs


@pytest.mark.parametrize("store", ["file-system", "chunked-fs", "buffered"])
def test_stores_of_magnus_are_rejected(project: Project, store: str) -> None:
    project.write(
        config_yaml={"executor": PARALLEL["executor"], "run_log_store": {"type": store}},
        pipeline_yaml={"dag": dag(split=parallel(a=dag(x=STUB), b=dag(y=STUB)))},
    )
    assert_rejected(project, f"but '{store}'")


def test_database_in_memory_is_rejected(project: Project) -> None:
    project.write(
        config_yaml={
            **PARALLEL,
            "run_log_store": {"type": "db", "config": {"connection_string": "sqlite:///:memory:"}},
        },
        pipeline_yaml={"dag": dag(one=STUB)},
    )
    assert_rejected(project, "in memory, where the processes of parallel branches cannot see it")


@pytest.mark.parametrize(
    ("pipeline", "conflict"),
    [
        (
            dag(split=parallel(a=dag(work=python("x")), b=dag(other=STUB, work=python("y")))),
            "'split.a.work' and 'split.b.work' write 'work.execution.log'",
        ),
        (
            dag(split=parallel(a=dag(**{"my step": python("x")}), b=dag(my_step=python("y")))),
            "'split.a.my step' and 'split.b.my_step' write 'my_step.execution.log'",
        ),
        (
            dag(
                each=mapped(
                    "files",
                    dag(split=parallel(a=dag(deep=parallel(c=dag(work=python("x")))), b=dag(work=python("y")))),
                )
            ),
            "'each.*.split.a.deep.c.work' and 'each.*.split.b.work' write",
        ),
        (
            dag(
                split=parallel(
                    a=dag(each=mapped("files", dag(work=python("x")))), b=dag(each=mapped("f", dag(work=python("y"))))
                )
            ),
            "'split.a.each.*.work' and 'split.b.each.*.work' write",
        ),
    ],
)
def test_steps_that_share_an_output_file_are_rejected(project: Project, pipeline: Any, conflict: str) -> None:
    project.environment["COLUMNS"] = "500"
    project.write(config_yaml=PARALLEL, pipeline_yaml={"dag": pipeline})
    assert_rejected(project, conflict)


def test_steps_with_their_own_output_files_are_accepted(project: Project) -> None:
    project.write(
        functions_py=WAITING,
        config_yaml=PARALLEL,
        parameters_yaml={"files": ["x", "y"], "file": "z"},
        pipeline_yaml={
            "dag": dag(
                work=python("end_badly"),
                split=parallel(
                    a=dag(work=python("end_badly")),
                    b=dag(each=mapped("files", dag(work=python("end_badly"))), same=STUB),
                    c=dag(same=STUB),
                ),
            )
        },
    )
    project.execute("run", "-p", "parameters.yaml")
    assert run_log(project, "run").status == "SUCCESS"


def test_systems_that_cannot_fork_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(context, "run_context", None)
    with pytest.raises(ConfigurationError, match="cannot do. Use the executor 'local'"):
        LocalParallel().prepare_for_graph_execution()


def test_max_workers_must_be_positive(project: Project) -> None:
    project.write(
        config_yaml={"executor": {"type": "local-parallel", "config": {"max_workers": 0}}, **DB},
        pipeline_yaml={"dag": dag(one=STUB)},
    )
    assert "greater than or equal to 1" in project.execute("run", fails=True)
