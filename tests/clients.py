"""Processes that constantly set and read parameters and steps, and the history of what they did."""

import contextlib
import datetime
import itertools
import logging
import random
import threading
import time
import traceback
from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import peewee
from concurrency import FORKSERVER
from histories import NEVER, Operation
from logs import step
from magnus import exceptions
from magnus.datastore import RunLog

from magnus_peewee_store import DBStore
from magnus_peewee_store.db import table
from magnus_peewee_store.times import utcnow

PROGRESS_DEADLINE = 120
SECONDS_PER_RUN = 1  # All clients change to a new run, without rows, after this time.
PATIENCE = 60.0  # the retry_timeout of half of the clients, in seconds
IMPATIENCE = 0.5  # that of the others
PARAMETERS = ("a", "b")
STEPS = ("s", "t")
NAMES = ("tag", *PARAMETERS, *STEPS)
PADDING = " " * 60_000  # Two such values do not fit into one statement of the store.


def run_values(run_log: RunLog) -> Dict[str, Optional[str]]:
    """Return the values of a full run log by name."""
    values: Dict[str, Optional[str]] = {name: run_log.parameters.get(name, "").strip() or None for name in PARAMETERS}
    values.update({name: run_log.steps[name].message if name in run_log.steps else None for name in STEPS})
    return {**values, "tag": run_log.tag}


def read_full_run(store: DBStore, run_id: str) -> Operation:
    """Read a full run log, and return the operation."""
    start = time.monotonic()
    try:
        values = run_values(store.get_run_log_by_id(run_id, full=True))
    except exceptions.RunLogNotFoundError:
        values = dict.fromkeys(NAMES)
    return read_operation(run_id, values, start)


def read_operation(run_id: str, values: Dict[str, Optional[str]], start: float) -> Operation:
    """Return a read that ends now."""
    return Operation(False, {f"{run_id}/{name}": value for name, value in values.items()}, start, time.monotonic())


class Client(logging.Handler):
    """Calls a store at random, and sends the start and the end of each call through a pipe."""

    def __init__(self, name: str, store: DBStore, is_patient: bool, pipe: Any) -> None:
        super().__init__()
        self.name = name
        self.store = store
        self.pipe = pipe
        # A patient client must not see errors, because no fault of a trial lasts longer than its retries.
        self.ignored = () if is_patient else (peewee.OperationalError, peewee.InterfaceError, peewee.InternalError)
        self.values = (f"{name}-{number}" for number in itertools.count())
        self.run_id = ""
        self.is_created = False
        self.is_retried = False
        self.clock_offset = datetime.timedelta()
        logging.getLogger("magnus.db").addHandler(self)
        table.utcnow = lambda: utcnow() + self.clock_offset

    def emit(self, record: logging.LogRecord) -> None:
        """Note that the store retries the current call."""
        if record.getMessage().startswith("Retrying"):
            self.is_retried = True
            self.pipe.send(("retry", None))

    def act(self) -> None:
        """Do one call; sometimes set the clock before it."""
        if random.random() < 0.02:
            self.clock_offset = datetime.timedelta(seconds=random.uniform(-1e7, 1e7))
            self.pipe.send(("clock", None))
        try:
            self.follow_run()
            random.choice(
                [
                    self.set_together,
                    self.set_one,
                    self.add_step,
                    self.put_run,
                    self.read_parameters,
                    self.read_step,
                    self.read_header,
                    self.read_run,
                ]
            )()
        except self.ignored:
            self.pipe.send(("failure", None))

    def follow_run(self) -> None:
        """Create the current run, if it is new to this client."""
        run_id = f"run-{int(time.monotonic() / SECONDS_PER_RUN)}"
        if run_id != self.run_id:
            self.run_id = run_id
            self.is_created = False
        if not self.is_created:
            self.create()
            self.is_created = True

    def create(self) -> None:
        try:
            self.write(["tag"], lambda value: self.store.create_run_log(self.run_id, tag=value))
        except exceptions.RunLogExistsError:
            # A retried call may have created the run, and another client may have changed it since.
            if not self.is_retried:
                self.pipe.send(("cancel", None))

    def set_together(self) -> None:
        padding = PADDING if random.random() < 0.1 else ""
        self.write(
            PARAMETERS, lambda value: self.store.set_parameters(self.run_id, dict.fromkeys(PARAMETERS, value + padding))
        )

    def set_one(self) -> None:
        name = random.choice(PARAMETERS)
        self.write([name], lambda value: self.store.set_parameters(self.run_id, {name: value}))

    def add_step(self) -> None:
        name = random.choice(STEPS)
        self.write([name], lambda value: self.store.add_step_log(step(name, message=value), self.run_id))

    def put_run(self) -> None:
        self.write(
            NAMES,
            lambda value: self.store.put_run_log(
                RunLog(
                    run_id=self.run_id,
                    tag=value,
                    parameters=dict.fromkeys(PARAMETERS, value),
                    steps={name: step(name, message=value) for name in STEPS},
                )
            ),
        )

    def read_parameters(self) -> None:
        start = time.monotonic()
        parameters = self.store.get_parameters(self.run_id)
        values = {name: parameters.get(name, "").strip() or None for name in PARAMETERS}
        self.pipe.send(("end", read_operation(self.run_id, values, start)))

    def read_step(self) -> None:
        name = random.choice(STEPS)
        start = time.monotonic()
        try:
            value = self.store.get_step_log(name, self.run_id).message
        except exceptions.StepLogNotFoundError:
            value = None
        self.pipe.send(("end", read_operation(self.run_id, {name: value}, start)))

    def read_header(self) -> None:
        start = time.monotonic()
        run_log = self.store.get_run_log_by_id(self.run_id)
        values = {name: value for name, value in run_values(run_log).items() if name not in STEPS}
        self.pipe.send(("end", read_operation(self.run_id, values, start)))

    def read_run(self) -> None:
        self.pipe.send(("end", read_full_run(self.store, self.run_id)))

    def write(self, names: Sequence[str], call: Callable[[str], Any]) -> None:
        """Call with a new value, which the call writes to these names."""
        value = next(self.values)
        self.is_retried = False
        operation = Operation(True, {f"{self.run_id}/{name}": value for name in names}, time.monotonic())
        self.pipe.send(("start", operation))
        call(value)
        self.pipe.send(("end", operation._replace(end=time.monotonic(), is_retried=self.is_retried)))


def run_client(name: str, url: str, is_patient: bool, stop: Any, pipe: Any) -> None:
    """Act until `stop` is set."""
    store = DBStore(connection_string=url, retry_timeout=PATIENCE if is_patient else IMPATIENCE)
    try:
        client = Client(name, store, is_patient, pipe)
        while not stop.is_set():
            client.act()
    except Exception:
        pipe.send(("error", traceback.format_exc()))
    finally:
        store.close()


class Recorder(threading.Thread):
    """Starts a client and records its operations in a history."""

    def __init__(self, name: str, url: str, is_patient: bool, trial: "Trial") -> None:
        super().__init__()
        self.url = url
        self.is_patient = is_patient
        self.count = 0
        self.process, self._pipe = start_process(run_client, name, url, is_patient, trial.stopping)
        self._trial = trial
        self._started_write: Optional[Operation] = None
        self.start()

    def run(self) -> None:
        """Receive until the client has ended."""
        with contextlib.suppress(EOFError):
            while True:
                event, content = self._pipe.recv()
                with self._trial.changed:
                    self._record(event, content)
                    self._trial.changed.notify_all()
        with self._trial.changed:
            self._end_unknown_write()
        self._pipe.close()

    def _record(self, event: str, content: Any) -> None:
        if event == "start":
            self._end_unknown_write()
            self._started_write = content
        elif event == "retry" and self._started_write:
            self._started_write = self._started_write._replace(is_retried=True)
        elif event == "failure":
            self._end_unknown_write()
        elif event == "cancel":
            self._started_write = None
        elif event == "end":
            if content.is_write:
                self._started_write = None
            self._trial.history.append(content)
            self.count += 1
        elif event == "clock":
            self._trial.faults["clock jumps"] += 1
        elif event == "error":
            self._trial.errors.append(content)

    def _end_unknown_write(self) -> None:
        if self._started_write:
            self._trial.history.append(self._started_write)
            self._started_write = None


def start_process(work: Callable[..., None], *arguments: Any) -> Any:
    """Start `work(*arguments, pipe)` in a process. Return the process and the other end of the pipe."""
    receiving, sending = FORKSERVER.Pipe(duplex=False)
    process = FORKSERVER.Process(target=work, args=(*arguments, sending))
    process.start()
    sending.close()
    return process, receiving


class Trial:
    """Clients that write and read until the end, what they did, and the faults that happened meanwhile.

    Args:
        urls: The connection strings. The clients take turns to take one.
        count: The number of clients. Half of them have a short retry_timeout.
    """

    def __init__(self, urls: Sequence[str], count: int) -> None:
        self.history: List[Operation] = []
        self.faults: Counter[str] = Counter()
        self.errors: List[str] = []
        self.changed = threading.Condition()
        self.stopping = FORKSERVER.Event()
        self._names = map(str, itertools.count())
        places = itertools.islice(zip(itertools.cycle(urls), itertools.cycle([True, False])), count)
        self._clients = [Recorder(next(self._names), url, is_patient, self) for url, is_patient in places]

    def wait_for_operations(self, count: int, except_url: str = "") -> None:
        """Wait until each client has done this many more operations. Clients of `except_url` do not count."""
        goals = [(client, client.count + count) for client in self._clients if client.url != except_url]
        with self.changed:
            self.changed.wait_for(
                lambda: self.errors or all(client.count >= goal for client, goal in goals), PROGRESS_DEADLINE
            )
            assert not self.errors, self.errors[0]
            assert all(client.count >= goal for client, goal in goals), "A client has made no progress."

    def kill_client(self) -> None:
        """Kill a client at any moment, and start another in its place."""
        number = random.randrange(len(self._clients))
        killed = self._clients[number]
        killed.process.kill()
        killed.process.join()
        killed.join()
        self._clients[number] = Recorder(next(self._names), killed.url, killed.is_patient, self)
        self.faults["killed clients"] += 1

    def stop(self) -> None:
        """Let each client end its operation."""
        self.stopping.set()
        for client in self._clients:
            client.join()
            client.process.join()
        assert not self.errors, self.errors[0]

    def kill(self) -> None:
        """End all clients at once."""
        for client in self._clients:
            client.process.kill()
            client.process.join()
            client.join()

    def read_all(self, urls: Sequence[str]) -> None:
        """Add to the history what each run holds at the end."""
        run_ids = sorted({key.partition("/")[0] for operation in self.history for key in operation.values})
        for url in urls:
            store = DBStore(connection_string=url)
            try:
                self.history.extend(read_full_run(store, run_id) for run_id in run_ids)
            finally:
                store.close()

    def summary(self) -> str:
        """Return the numbers of operations and faults."""
        writes = [each for each in self.history if each.is_write]
        unknown, retried = sum(each.end == NEVER for each in writes), sum(each.is_retried for each in writes)
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{len(self.history)} operations ({len(writes)} writes, of which {retried} retried, {unknown} with unknown "
            f"outcome) through {sum(self.faults.values())} faults ({faults})"
        )


@contextlib.contextmanager
def start_trial(urls: Sequence[str], count: int = 6) -> Iterator[Trial]:
    """Run clients until the end of the `with` block."""
    trial = Trial(urls, count)
    try:
        yield trial
    finally:
        trial.kill()
