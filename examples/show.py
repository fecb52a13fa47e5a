"""Print the newest run as a tree of its steps, with their metrics and catalog files."""

import sqlite3
from typing import Dict

from magnus.datastore import StepLog
from rich.console import Console
from rich.tree import Tree

from magnus_peewee_store import DBStore

NEWEST_RUN = "SELECT run_id FROM db_log WHERE attribute_type = 'RunLog' ORDER BY created_at DESC LIMIT 1"


def add_steps(tree: Tree, steps: Dict[str, StepLog]) -> None:
    """Add steps, and the steps of their branches, to a tree."""
    for step in steps.values():
        if step.step_type in ("success", "fail"):
            continue
        durations = ", ".join(attempt.duration[:-3] for attempt in step.attempts)
        step_node = tree.add(f"[bold]{step.name}[/] {step.status} [dim]{durations}[/]")
        for name, value in step.user_defined_metrics.items():
            text = ", ".join(f"{each} {value[each]}" for each in value) if isinstance(value, dict) else value
            step_node.add(f"{name}: [cyan]{text}[/]")
        for data in step.get_data_catalogs_by_stage("put"):
            if not step.branches and ".execution.log" not in data.name:
                step_node.add(f"[dim]{data.name} sha256 {data.data_hash[:12]}[/]")
        for name, branch in step.branches.items():
            add_steps(step_node.add(f"[italic]{name[len(step.internal_name) + 1 :]}[/] {branch.status}"), branch.steps)


[run_id] = sqlite3.connect(".run_log_store/run_log.db").execute(NEWEST_RUN).fetchone()
run_log = DBStore().get_run_log_by_id(run_id, full=True)
root = Tree(f"[bold]{run_id}[/] {run_log.status} [cyan]{run_log.parameters}[/]")
add_steps(root, run_log.steps)
Console(highlight=False).print(root)
