"""Logs to write, as short as a test wants them."""

from typing import Any, Dict

from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog


def step(name: str, **attributes: Any) -> StepLog:
    """The log of a step by its internal name."""
    return StepLog(**{"name": name.rpartition(".")[2], "internal_name": name, **attributes})


def tried(name: str, start: str, end: str, status: str = "SUCCESS", message: str = "", **attributes: Any) -> StepLog:
    """The log of a step that was tried once, on one day of 2024."""
    times = {"start_time": f"2024-02-03 {start}", "end_time": f"2024-02-03 {end}"}
    attempt = StepAttempt(attempt_number=1, status=status, message=message, **times)
    return step(name, status=status, attempts=[attempt], **attributes)


def a_run(run_id: str, status: str = "SUCCESS", **attributes: Any) -> RunLog:
    """The log of a run with something of everything: a step, a map of two branches, and a failure if it is to fail."""
    branches: Dict[str, BranchLog] = {}
    for number, (month, how) in enumerate((("jan.csv", "SUCCESS"), ("feb.csv", status))):
        work = tried(
            f"each.{month}.work",
            *(f"10:00:0{4 + number}.500000", f"10:00:0{5 + number}.500000", how),
            message="" if how == "SUCCESS" else "it broke\nat line 2",
            user_defined_metrics={"loss": float("nan"), "score": {"deep": [1, None]}},
        )
        end = step(f"each.{month}.{'success' if how == 'SUCCESS' else 'fail'}", status="SUCCESS", step_type="success")
        steps = {each.internal_name: each for each in (work, end)}
        branches[f"each.{month}"] = BranchLog(internal_name=f"each.{month}", status=how, steps=steps)
    load = tried(
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
