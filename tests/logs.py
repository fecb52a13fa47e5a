"""Build small step logs and run logs for tests."""

from typing import Any, Dict

from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog


def step(name: str, **attributes: Any) -> StepLog:
    """Return the log of the step with an internal name."""
    return StepLog(**{"name": name.rpartition(".")[2], "internal_name": name, **attributes})


def attempted_step(
    name: str, start: str, end: str, status: str = "SUCCESS", message: str = "", **attributes: Any
) -> StepLog:
    """Return the log of a step with one attempt, on 2024-02-03 between two times of day."""
    times = {"start_time": f"2024-02-03 {start}", "end_time": f"2024-02-03 {end}"}
    attempt = StepAttempt(attempt_number=1, status=status, message=message, **times)
    return step(name, status=status, attempts=[attempt], **attributes)


def sample_run(run_id: str, status: str = "SUCCESS", **attributes: Any) -> RunLog:
    """Return the log of a run with a step, a map of two branches and parameters. If it failed, one branch failed."""
    branches: Dict[str, BranchLog] = {}
    for number, (month, branch_status) in enumerate((("jan.csv", "SUCCESS"), ("feb.csv", status))):
        work = attempted_step(
            f"each.{month}.work",
            *(f"10:00:0{4 + number}.500000", f"10:00:0{5 + number}.500000", branch_status),
            message="" if branch_status == "SUCCESS" else "it broke\nat line 2",
            user_defined_metrics={"loss": float("nan"), "score": {"deep": [1, None]}},
        )
        end = step(
            f"each.{month}.{'success' if branch_status == 'SUCCESS' else 'fail'}", status="SUCCESS", step_type="success"
        )
        steps = {each.internal_name: each for each in (work, end)}
        branches[f"each.{month}"] = BranchLog(internal_name=f"each.{month}", status=branch_status, steps=steps)
    load = attempted_step(
        "load",
        *("10:00:00.500000", "10:00:04.500000"),
        data_catalog=[{"name": "rows.csv", "data_hash": "0123456789abcdef", "stage": "put"}],
        code_identities=[
            {"code_identifier": "5f0f5e2", "code_identifier_type": "git", "code_identifier_dependable": True}
        ],
    )
    steps = {"load": load, "each": step("each", status=status, step_type="map", branches=branches)}
    parameters = {"rows": 3, "files": ["jan.csv", "feb.csv"]}
    return RunLog(**{"run_id": run_id, "status": status, "steps": steps, "parameters": parameters, **attributes})
