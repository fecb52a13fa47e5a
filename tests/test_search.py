"""Test searches over many runs, on every database."""

import math
import sys
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, Sequence

import pytest
from conftest import AnyDatabase
from logs import attempted_step, sample_run, step
from magnus.datastore import BranchLog, RunLog
from test_liveness import add_beat

from magnus_peewee_store import ConditionError, DBStore, InvalidValueError, MissingLibraryError, fragments, runs
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.heartbeat import INTERRUPTED
from magnus_peewee_store.report.run_table import field_columns
from magnus_peewee_store.runs.search import FIELDS, Name, make_filters, parse_condition, search_page
from magnus_peewee_store.times import to_created_at


def put(store: DBStore, run_id: str, metrics: Dict[str, Any], status: str = "SUCCESS", **params: Any) -> None:
    """Write a run with a step `train` that took one second and logged the metrics."""
    train = attempted_step("train", "10:00:00", "10:00:01", status, user_defined_metrics=metrics)
    store.put_run_log(RunLog(run_id=run_id, status=status, tag="nightly", steps={"train": train}, parameters=params))


@pytest.fixture
def three_runs(store: DBStore) -> DBStore:
    put(store, "coarse", {"rmse": 0.7}, lr=0.1, **{"batch size": 16})
    put(store, "fine", {"rmse": 0.4}, lr=0.01, optimizer={"name": "adam"})
    put(store, "diverged", {"rmse": math.nan}, "FAIL", lr=1)
    return store


def ids(found: Sequence[runs.RunSummary]) -> List[str]:
    return [run.run_id for run in found]


def test_search_finds_the_run_with_the_lowest_error(three_runs: DBStore) -> None:
    [best] = runs.search(three_runs, order_by="rmse", limit=1)
    assert (best.run_id, best.metrics, best.params) == (
        "fine",
        {"train.rmse": 0.4},
        {"lr": 0.01, "optimizer.name": "adam"},
    )
    assert ids(runs.search(three_runs, order_by="rmse", descending=True)) == ["coarse", "fine", "diverged"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["rmse<0.5"], ["fine"]),
        (["train.rmse<=0.7", "lr>0.05"], ["coarse"]),
        (["metrics.rmse >= 0.4"], ["fine", "coarse"]),
        (["rmse=nan"], ["diverged"]),
        (["rmse!=nan"], ["fine", "coarse"]),
        (["lr=1.0"], ["diverged"]),
        (["params.lr==0.1"], ["coarse"]),
        (["batch size = 16"], ["coarse"]),
        (['"batch size"="16"'], ["coarse"]),
        (["optimizer.name~AD"], ["fine"]),
        (["optimizer.name=adam"], ["fine"]),
        (["optimizer.name>a"], ["fine"]),
        (["optimizer.name>0"], []),
        (["status=failed"], ["diverged"]),
        (["status!=FAIL"], ["fine", "coarse"]),
        (["failed_step=train"], ["diverged"]),
        (["tag=nightly", "run_id~ine"], ["fine"]),
        (["tag!=nightly"], []),
        (["duration<10"], ["diverged", "fine", "coarse"]),
        (["duration>2m"], []),
        (["started>1h"], ["diverged", "fine", "coarse"]),
        (["started<2020-01-31"], []),
        (["duration>0s"], ["diverged", "fine", "coarse"]),
        (["started<=0d"], ["diverged", "fine", "coarse"]),
        (["started>=2024-01-31T09:00:00Z"], ["diverged", "fine", "coarse"]),
    ],
)
def test_search_finds_runs_that_meet_all_conditions(three_runs: DBStore, where: List[str], expected: List[str]) -> None:
    assert ids(runs.search(three_runs, where)) == expected
    first, total = search_page(three_runs, make_filters(where), None, 1, False)
    assert (ids(first), total) == (expected[:1], len(expected))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("shuffle=false", ["run"]),
        ("shuffle=True", []),
        ("shuffle=", []),
        ("shuffle!=", ["run"]),
        ("seed=null", ["run"]),
    ],
)
def test_booleans_and_null_are_compared_with_their_names(store: DBStore, condition: str, expected: List[str]) -> None:
    put(store, "run", {}, shuffle=False, seed=None)
    assert ids(runs.search(store, condition)) == expected


def test_best_metric_of_the_branches_of_a_map_counts(store: DBStore) -> None:
    for run_id, losses in (("wide", (1, 9)), ("narrow", (4, 5))):
        branches = {}
        for number, loss in enumerate(losses):
            work = step(f"each.{number}.work", status="SUCCESS", user_defined_metrics={"loss": loss})
            branches[f"each.{number}"] = BranchLog(internal_name=f"each.{number}", steps={work.internal_name: work})
        store.put_run_log(RunLog(run_id=run_id, steps={"each": step("each", step_type="map", branches=branches)}))
    assert ids(runs.search(store, order_by="loss")) == ["wide", "narrow"]
    assert ids(runs.search(store, order_by="loss", descending=True)) == ["wide", "narrow"]
    assert ids(runs.search(store, ["loss<2"])) == ["wide"]
    assert ids(runs.search(store, ["loss>8", "loss<2"])) == ["wide"]
    frame = runs.metrics_dataframe(store, order_by="loss").drop(columns="iteration")
    assert frame.values.tolist()[:2] == [
        ["wide", "work", "each.0", "loss", 1.0, "1"],
        ["wide", "work", "each.1", "loss", 9.0, "9"],
    ]


@pytest.fixture
def series(store: DBStore) -> DBStore:
    """Return a store with two runs that have a series, and one with a single value."""
    for run_id, losses in (("wide", (1, 9, 3)), ("narrow", (5, 4, math.nan))):
        metrics = {"loss": dict(zip(("0", "1", "10"), losses)), "loss2": 0}
        train = step("train", status="SUCCESS", user_defined_metrics=metrics)
        store.put_run_log(RunLog(run_id=run_id, steps={"train": train}))
    put(store, "single", {"loss": 6})
    return store


def test_name_of_a_series_means_its_last_value(series: DBStore) -> None:
    assert [run.metrics["train.loss"] for run in runs.search(series, order_by="loss")][:2] == [3, 6]
    assert ids(runs.search(series, ["loss=3"])) == ["wide"] and runs.search(series, ["loss=9"]) == []
    with pytest.raises(ConditionError, match="Did you mean loss or loss2"):
        runs.search(series, ["losss<1"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("loss.min", {"wide": [1], "narrow": [4], "single": [6]}),
        ("loss.max", {"wide": [9], "narrow": [5], "single": [6]}),
        ("train.loss.first", {"wide": [1], "narrow": [5], "single": [6]}),
        ("metrics.loss.last", {"wide": [3], "narrow": [math.nan], "single": [6]}),
        ("loss.1", {"wide": [9], "narrow": [4], "single": []}),
        ("loss.7", {"wide": [], "narrow": [], "single": []}),
        ("loss2.min", {"wide": [0], "narrow": [0], "single": []}),
    ],
)
def test_endings_choose_a_value_of_a_series(series: DBStore, name: str, values: Any) -> None:
    found = {run.run_id: Name(name).values(run) for run in runs.search(series)}
    assert str(found) == str({run_id: values[run_id] for run_id in found})


def test_stored_name_beats_an_ending(series: DBStore) -> None:
    put(series, "stored", {"loss": {"0": 1, "1": 2}, "loss.min": 0.5})
    assert ids(runs.search(series, ["loss.min=0.5"])) == ["stored"]
    assert ids(runs.search(series, order_by="loss.min"))[:2] == ["stored", "wide"]


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_less_than_one_is_an_error(store: DBStore, limit: int) -> None:
    with pytest.raises(InvalidValueError, match=f"at least 1, not {limit}"):
        runs.search(store, limit=limit)


def test_summary_without_values_agrees_with_whole_summary(store: DBStore) -> None:
    store.put_run_log(sample_run("sample"))
    store.put_run_log(RunLog(run_id="failed", status="FAIL", steps={"train": step("train", status="FAIL")}))
    store.put_run_log(RunLog(run_id="begun", status="PROCESSING"))
    runs.tag_run(store, "begun", "best")
    run_ids = ["begun", "failed", "sample"]
    for progress, summary in zip(runs.summarize(store, run_ids, with_values=False), runs.summarize(store, run_ids)):
        expected = {**vars(summary), "duration": pytest.approx(summary.duration, abs=60)}
        assert vars(progress) == {
            **expected,
            "params": {},
            "metrics": {},
            "reused": {},
            "project": None,
            "commit": None,
        }


def test_one_condition_needs_no_list(three_runs: DBStore) -> None:
    assert ids(runs.search(three_runs, "rmse<0.5")) == ["fine"]
    assert ids(runs.search(three_runs, runs.Condition("rmse", "<", "0.5"))) == ["fine"]


def test_status_finds_runs_that_died_and_what_magnus_wrote(store: DBStore) -> None:
    for run_id in ("ended", "alive", "silent", "killed"):
        store.create_run_log(run_id, status="SUCCESS" if run_id == "ended" else "PROCESSING")
        add_beat(store, 0 if run_id == "alive" else 1000, run_id, state=INTERRUPTED if run_id == "killed" else "")
    found = {
        "status=STALE": ["silent"],
        "status=interrupted": ["killed"],
        "status=PROCESSING": ["killed", "silent", "alive"],
        "status!=PROCESSING": ["ended"],
        "status!=STALE": ["killed", "alive", "ended"],
        "state=PROCESSING": ["alive"],
        "state~sta": ["silent"],
    }
    assert {condition: ids(runs.search(store, condition)) for condition in found} == found
    assert ids(runs.list_runs(store, "STALE")) == ["silent"]
    states = dict(zip(*map(list, runs.to_dataframe(store)[["run_id", "state"]].to_numpy().T)))
    assert states == {"ended": "SUCCESS", "alive": "PROCESSING", "silent": "STALE", "killed": "INTERRUPTED"}
    assert {*runs.to_dataframe(store)["status"]} == {"SUCCESS", "PROCESSING"}
    with pytest.raises(ConditionError, match="FAIL, UNKNOWN, STALE, INTERRUPTED"):
        runs.search(store, "status=DEAD")


def test_one_of_several_tags_is_enough(store: DBStore) -> None:
    own = {"a": "a", "b": "", "c": "c", "whole": "a,b", "none": ""}
    for run_id, tag in own.items():
        store.create_run_log(run_id, tag=tag, status="SUCCESS")
    runs.tag_run(store, "b", "b", "x")
    assert ids(runs.search(store, "tag=a,b")) == ["b", "a"] and ids(runs.search(store, "tag=c, x")) == ["c", "b"]
    assert ids(runs.search(store, "tag!=a,b")) == ["none", "whole", "c"]
    assert ids(runs.search(store, 'tag="a,b"')) == ids(runs.list_runs(store, tag="a,b")) == ["whole"]
    assert runs.prunable(store, keep=0, keep_tags=["a,b"]).run_ids == ["a", "b", "c", "none"]


def test_fields_are_the_same_everywhere(store: DBStore) -> None:
    code = {"code_identifier": "5f0f5e2", "code_identifier_type": "git", "code_identifier_url": "x"}
    load = step("load", status="FAIL", code_identities=[code])
    origin = {"user": "ann", "host": "pc", "utc_offset": 0, "python": "3.11.7", "magnus": "0.5.1"}
    config = {"pipeline_file": "a.yaml", "started_by": origin}
    store.put_run_log(RunLog(run_id="run", status="FAIL", tag="t", run_config=config, steps={"load": load}))
    for text in ("first", "second"):
        runs.add_note(store, "run", text)
    [run] = runs.search(store)
    values = {name: value(run) for name, value in FIELDS.items()}
    assert (values["commit"], values["note"]) == ("5f0f5e2", "first, second")
    assert values["environment"] == "Python 3.11.7, magnus 0.5.1" and values["state"] == "FAIL"
    frame = runs.to_dataframe(store)
    assert list(frame.columns) == [*FIELDS]
    assert {each.name for each in field_columns([run])} == {*FIELDS} - {"duration"}
    for name in FIELDS:
        if values[name] is not None:
            text = "1d" if name == "started" else str(values[name]).split(", ")[0]
            symbol = {"started": ">", "environment": "~"}.get(name, "=")
            assert ids(runs.search(store, runs.Condition(name, symbol, text), order_by=name)) == ["run"]


def test_runs_without_the_sorted_name_come_last(three_runs: DBStore) -> None:
    put(three_runs, "other", {"accuracy": "n/a"})
    assert ids(runs.search(three_runs, order_by="rmse")) == ["fine", "coarse", "diverged", "other"]
    assert ids(runs.search(three_runs, order_by="started")) == ["coarse", "fine", "diverged", "other"]
    assert ids(runs.search(three_runs, order_by="run_id", descending=True, limit=2)) == ["other", "fine"]


def test_unknown_name_error_suggests_the_nearest(three_runs: DBStore) -> None:
    with pytest.raises(ConditionError, match="No run has a parameter or metric 'rsme'. Did you mean rmse"):
        runs.search(three_runs, ["rsme<0.5"])
    with pytest.raises(ConditionError, match="'params.rmse'"):
        runs.search(three_runs, order_by="params.rmse")
    # Only runs that do not meet the other condition have the name.
    assert runs.search(three_runs, ["status=FAIL", "batch size=16"]) == []


def test_order_of_numbers_and_a_text_is_refused(three_runs: DBStore) -> None:
    with pytest.raises(ConditionError, match="Cannot compare 'lr' > 'abc': all its values are numbers"):
        runs.search(three_runs, ["lr>abc"])
    put(three_runs, "other", {}, lr="low")
    assert ids(runs.search(three_runs, ["lr>abc"])) == ["other"]
    assert runs.search(three_runs, ["lr=abc"]) == []


def test_date_means_the_whole_day(store: DBStore) -> None:
    for run_id, hours in (("before", -1), ("first", 0), ("last", 23), ("after", 24)):
        started = datetime(2024, 1, 31).astimezone() + timedelta(hours=hours)
        header = fragments.dump_header(RunLog(run_id=run_id, status="SUCCESS"))
        store.table.insert_run([StoredRow(run_id, *header, to_created_at(started))])
    expected = {
        "=": {"first", "last"},
        "!=": {"before", "after"},
        "<": {"before"},
        "<=": {"before", "first", "last"},
        ">": {"after"},
        ">=": {"first", "last", "after"},
    }
    found = {each: {*ids(runs.search(store, f"started{each}2024-01-31"))} for each in expected}
    assert found == expected
    assert ids(runs.search(store, "started=2024-01-31T00:00")) == ["first"]


def test_dotted_name_and_dictionary_are_two_values(store: DBStore) -> None:
    values = {"model": {"lr": 1}, "model.lr": 0.5}
    put(store, "both", values, **values)
    put(store, "one", {"model.lr": 0.5}, **{"model.lr": 0.5})
    both = runs.search(store, "run_id=both")[0]
    assert both.params == {"model[lr]": 1, "model.lr": 0.5}
    assert both.metrics == {"train.model[lr]": 1, "train.model.lr": 0.5}
    for name in ("params.model.lr", "metrics.model.lr"):
        assert ids(runs.search(store, f"{name}=1")) == ["both"] == ids(runs.search(store, f"{name}>0.7"))
        assert ids(runs.search(store, f"{name}=0.5")) == ["one", "both"]
    assert ids(runs.search(store, "params.model[lr]=1")) == ["both"]
    found = runs.compare([runs.read_run(store, run_id) for run_id in ("both", "one")])
    assert found.parameters == {"model[lr]": {"both": 1}}
    assert found.metrics == {"train.model[lr]": {"both": 1}}


def test_parameter_within_params_is_found_by_its_name(store: DBStore) -> None:
    store.put_run_log(RunLog(run_id="inner", parameters={"params": {"lr": 0.1}, "metrics": {"depth": 3}}))
    put(store, "outer", {}, lr=0.2)
    assert ids(runs.search(store, "params.lr=0.1")) == ["inner"] == ids(runs.search(store, "params.params.lr=0.1"))
    assert ids(runs.search(store, "params.lr=0.2")) == ["outer"] == ids(runs.search(store, "lr=0.2"))
    assert ids(runs.search(store, "metrics.depth=3")) == ["inner"]


def test_empty_database_has_no_unknown_names(store: DBStore) -> None:
    assert runs.search(store, ["rmse<0.5"]) == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("rmse", "'rmse' is not a condition. Write a name, one of = != < <= > >= ~ and a value, such as rmse<0.5."),
        ("<3", "'<3' is not a condition."),
        ("status=DONE", "'DONE' is not a status. The statuses are CREATED, TRIGGERED, PROCESSING, SUCCESS, FAIL, UN"),
        ("duration>long", "'long' is not a duration. Use seconds, or 90s, 15m, 12h, 2d or 1w."),
        (
            "epochs>=10 and lr<0.1",
            "'epochs>=10 and lr<0.1' looks like two conditions. "
            "Write each in its own --where: --where 'epochs>=10' --where 'lr<0.1'.",
        ),
        ("tag=a && lr<0.1", "'tag=a && lr<0.1' looks like two conditions"),
        ("a=1 OR a = 2", "'a=1 OR a = 2' looks like two conditions. There is no 'or'. Run the command once"),
        ("started>yesterday", "'yesterday' is not a time. Use 2d"),
        (runs.Condition("a", "<>", "1"), "'<>' is not one of = != < <= > >= ~"),
    ],
)
def test_invalid_condition_error_says_what_to_write(store: DBStore, condition: Any, message: str) -> None:
    with pytest.raises(ConditionError) as error:
        runs.search(store, [condition])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("a b = c d ", ("a b", "=", "c d")),
        ('"a<b">=1', ("a<b", ">=", "1")),
        ("'a \"b'!='x'", ('a "b', "!=", "x")),
        ("\U0001f600~\u00e9=", ("\U0001f600", "~", "\u00e9=")),
        ("tag=", ("tag", "=", "")),
        ("tag=salt and pepper", ("tag", "=", "salt and pepper")),
        ("text='a and b=2'", ("text", "=", "a and b=2")),
    ],
)
def test_condition_is_parsed(text: str, condition: Any) -> None:
    assert parse_condition(text) == condition


def test_dataframe_has_a_row_per_run_with_the_columns_of_mlflow(three_runs: DBStore) -> None:
    frame = runs.to_dataframe(three_runs, order_by="rmse")
    assert list(frame.columns) == [
        *FIELDS,
        *("params.lr", "params.optimizer.name", "params.batch size", "metrics.train.rmse"),
    ]
    assert list(frame["run_id"]) == ["fine", "coarse", "diverged"] and list(frame["tag"]) == ["nightly"] * 3
    assert str(frame["started"].dt.tz) == "UTC" and frame["duration"].tolist() == [1.0, 1.0, 1.0]
    assert datetime.now(timezone.utc) - frame["started"][0] < timedelta(hours=1)
    assert frame["metrics.train.rmse"].dtype == frame["params.lr"].dtype == "float64"
    assert frame[frame["metrics.train.rmse"] < 0.5]["params.lr"].tolist() == [0.01]
    assert runs.to_dataframe(three_runs, ["lr<1"], limit=1)["run_id"].tolist() == ["fine"]


def test_dataframe_of_no_runs_is_empty(store: DBStore) -> None:
    assert runs.to_dataframe(store).shape == (0, len(FIELDS)) and runs.metrics_dataframe(store).shape == (0, 7)


def test_dataframe_keeps_all_digits_of_integers(store: DBStore) -> None:
    large, larger = 20230807093130621, 2**70
    put(store, "first", {"n": large, "mixed": large}, seed=large, more=larger)
    put(store, "second", {"mixed": 0.5}, other=1)
    frame = runs.to_dataframe(store, order_by="run_id")
    assert frame["params.seed"][0] == large and str(frame["params.seed"].dtype) == "Int64"
    assert frame["metrics.train.n"][0] == large and frame["params.more"][0] == larger
    assert frame["metrics.train.mixed"].tolist() == [large, 0.5]
    frame = runs.metrics_dataframe(store)
    assert {*frame["text"]} == {str(large), "0.5"} and str(frame["value"].dtype) == "float64"


def test_empty_dataframe_keeps_columns_of_text(store: DBStore) -> None:
    frame, metrics = runs.to_dataframe(store), runs.metrics_dataframe(store)
    for column in (frame["run_id"], frame["status"], frame["tag"], metrics["run_id"], metrics["metric"]):
        assert column.str.upper().tolist() == []
    put(store, "run", {"a": 1})
    texts = ["run_id", "state", "tag", "note", "commit", "environment"]
    assert frame[texts].dtypes.equals(runs.to_dataframe(store)[texts].dtypes)


def test_missing_pandas_error_says_how_to_install_it(three_runs: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for function in (runs.to_dataframe, runs.metrics_dataframe):
        with pytest.raises(MissingLibraryError, match=r"pip install pandas"):
            function(three_runs)


def test_unreadable_rows_are_reported_and_the_rest_is_searched(three_runs: DBStore, database: AnyDatabase) -> None:
    three_runs.put_run_log(sample_run("sample"))
    update = "UPDATE db_log SET attribute_value = ? WHERE run_id = ? AND attribute_key = ?"
    database.sql(update, "{", "sample", "load")
    database.sql(update, "[]", "fine", "train")
    database.sql(update, "nothing", "coarse", "lr")
    found = {run.run_id: run for run in runs.search(three_runs)}
    assert {run_id: run.unreadable for run_id, run in found.items() if run.unreadable} == {
        "sample": ["Step load"],
        "fine": ["Step train"],
        "coarse": ["Parameter lr"],
    }
    assert found["coarse"].metrics == {"train.rmse": 0.7} and found["fine"].params["lr"] == 0.01
    assert math.isnan(found["sample"].metrics["each.jan.csv.work.loss"])


def test_equality_with_a_list_compares_its_items(store: DBStore) -> None:
    put(store, "first", {}, layers=[1, 2], other=[1])
    put(store, "second", {}, layers=[1, 3])
    assert ids(runs.search(store, "layers=[1,2]")) == ["first"]
    assert ids(runs.search(store, "layers!=[1,2]")) == ["second"]
    assert runs.search(store, "layers=1") == []
