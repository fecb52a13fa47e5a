"""Test that a re-run has the metrics and data of the steps that it reused."""

from pathlib import Path
from typing import Any

import pytest
from logs import attempted_step, sample_run, step
from magnus.datastore import BranchLog, RunLog, StepLog

from magnus_peewee_store import DBStore, RunIsReusedError, runs
from magnus_peewee_store.runs.upkeep import decide, delete_unless_kept


def measured(name: str, **metrics: Any) -> StepLog:
    data = [{"name": f"{name}.csv", "data_hash": "0123", "stage": "put"}]
    return attempted_step(name, "10:00:00", "10:00:01", user_defined_metrics=metrics, data_catalog=data)


def put(store: DBStore, run_id: str, *steps: StepLog, original: str = "") -> None:
    by_name = {each.internal_name: each for each in steps}
    store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", original_run_id=original, steps=by_name))


def reused(name: str) -> StepLog:
    return step(name, status="SUCCESS", mock=True)


def put_three_runs(store: DBStore) -> None:
    """Write a run, and two re-runs that each reuse one more step."""
    inner = BranchLog(
        internal_name="each.jan", status="SUCCESS", steps={"each.jan.work": measured("each.jan.work", a=1)}
    )
    each = step("each", status="SUCCESS", step_type="map", branches={"each.jan": inner})
    put(store, "first", each)
    put(store, "second", reused("each"), measured("train", rmse=0.5), original="first")
    put(store, "third", reused("each"), reused("train"), measured("check", b=2), original="second")


def test_search_counts_metrics_of_reused_steps_through_several_runs(store: DBStore) -> None:
    put_three_runs(store)
    [third] = runs.search(store, ["run_id=third", "rmse=0.5", "a=1", "b=2"])
    assert third.metrics == {"each.jan.work.a": 1, "train.rmse": 0.5, "check.b": 2}
    assert third.reused == {"each": "first", "train": "second"}
    assert (third.steps_done, third.steps_known, third.duration) == (3, 3, 1.0)
    assert runs.summarize(store, ["third", "first"])[0] == third
    assert runs.summarize(store, ["first"])[0].reused == {}


def test_complete_log_has_metrics_and_data_of_reused_steps(store: DBStore) -> None:
    put_three_runs(store)
    run = runs.read_run(store, "third")
    assert run.run_log.model_dump() == store.get_run_log_by_id("third", full=True).model_dump()
    assert run.complete_log.steps["train"].user_defined_metrics == {"rmse": 0.5}
    work = run.complete_log.steps["each"].branches["each.jan"].steps["each.jan.work"]
    assert (work.user_defined_metrics, work.data_catalog[0].name, work.attempts) == ({"a": 1}, "each.jan.work.csv", [])
    assert run.reused == {"each": "first", "each.jan.work": "first", "train": "second"}


@pytest.mark.parametrize("original", ["gone", "run"])
def test_rerun_of_missing_run_and_of_itself_has_own_metrics(store: DBStore, original: str) -> None:
    put(store, "run", reused("load"), measured("train", rmse=0.5), original=original)
    [found] = runs.search(store)
    assert (found.metrics, found.reused) == ({"train.rmse": 0.5}, {"load": original})
    run = runs.read_run(store, "run")
    assert (run.complete_log.model_dump(), run.reused) == (run.run_log.model_dump(), {"load": original})


def test_mock_step_of_first_run_is_not_reused(store: DBStore) -> None:
    put(store, "run", reused("load"))
    [found] = runs.search(store)
    assert found.reused == {} == runs.read_run(store, "run").reused


def test_run_displays_itself_as_timeline(store: DBStore) -> None:
    store.put_run_log(sample_run('<a "b">'))
    html = runs.read_run(store, "<a")._repr_html_()
    assert (
        html.startswith('<img alt="Timeline of run &lt;a &quot;b&quot;&gt;"') and "data:image/svg+xml;base64," in html
    )


# Original runs are kept


def test_prunable_keeps_what_kept_runs_reuse(store: DBStore) -> None:
    put_three_runs(store)
    assert runs.prunable(store, keep=1) == ([], [], {"second": ["third"], "first": ["third"]})
    assert sorted(runs.prunable(store, keep=0).run_ids) == ["first", "second", "third"]


def test_rerun_with_own_results_holds_nothing(store: DBStore) -> None:
    put(store, "first", measured("train", rmse=0.5))
    put(store, "again", measured("train", rmse=0.4), original="first")
    assert runs.prunable(store, keep=1).run_ids == ["first"]


def test_unfinished_rerun_holds_its_original(store: DBStore) -> None:
    put(store, "first", measured("train", rmse=0.5))
    store.create_run_log("again", use_cached=True, original_run_id="first", status="PROCESSING")
    with pytest.raises(RunIsReusedError, match="again"):
        list(runs.delete_runs(store, ["first"]))


def test_delete_refuses_reused_runs(store: DBStore) -> None:
    put_three_runs(store)
    with pytest.raises(RunIsReusedError, match="second, third would lose what first"):
        list(runs.delete_runs(store, ["first"]))
    assert len(list(runs.delete_runs(store, ["first"], should_force=True))) == 1
    assert len(list(runs.delete_runs(store, ["second", "third"]))) == 2


def test_check_names_reruns_without_original(store: DBStore) -> None:
    put_three_runs(store)
    assert runs.check(store).without_original == {}
    list(runs.delete_runs(store, ["first"], should_force=True))
    report = runs.check(store)
    assert report.without_original == {"second": "first"} and report.is_healthy


def test_copy_and_export_take_originals_along(store: DBStore, tmp_path: Path) -> None:
    put_three_runs(store)
    target = DBStore(connection_string=f"sqlite:///{tmp_path}/copy.db")
    for outcomes in (runs.copy_runs(store, target, ["third"]), runs.export_runs(store, ["third"], tmp_path / "out")):
        reason = "taken along, because 'third' reuses its steps"
        assert [(each.name, each.message) for each in outcomes] == [
            ("first", reason),
            ("second", reason),
            ("third", ""),
        ]
    assert runs.summarize(target, ["third"]) == runs.summarize(store, ["third"])
    target.close()


def test_run_tagged_meanwhile_is_kept_with_its_originals(store: DBStore) -> None:
    put_three_runs(store)
    found = runs.prunable(store, keep=0, keep_tags=["released"])
    runs.tag_run(store, "second", "released")
    deleted = dict(
        delete_unless_kept(
            store, found.run_ids, lambda run_id: bool(decide(store, [run_id], None, (), ["released"]).run_ids)
        )
    )
    assert deleted == {"third": True, "second": False, "first": False}


def test_run_that_came_back_to_life_is_kept(store: DBStore) -> None:
    put(store, "run", measured("train"))
    found = runs.prunable(store, keep=0)
    store.update_run_log_status("run", "PROCESSING")
    assert found.run_ids == ["run"] and decide(store, ["run"], None, (), ()).running == ["run"]
