"""Work of many clients on one device: a bounded queue, computed batch by batch, fair and in time.

A job is a number of units of work of one client: samples, or parts of a long one. Units of jobs with equal keys share a
batch. One thread computes, batch after batch; everything else here runs in the event loop's thread. Clients take turns,
and so do the jobs of a client. Knows no model, no sample and no web.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from genkit.errors import GenkitError

Result = TypeVar("Result")

MEMORY = 1.0
"""Seconds after which the last batch says nothing of how many requests will come."""

log = logging.getLogger("genkit.serving")


class Refused(GenkitError):
    """Work that is not accepted, or that was given up before it was computed.

    Args:
        reason: `full`: the queue is; `share`: this client has its share of it; `late`: it would not be done in time;
            `draining`: the server is about to stop.
        message: one sentence for the client.
        retry_after: seconds after which another attempt makes sense; rounded up, at least 1.

    Attributes:
        reason, retry_after: as given.
    """

    def __init__(self, reason: str, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.reason, self.retry_after = reason, max(1, math.ceil(retry_after))


class Left(GenkitError):
    """A client is gone: its work is not done."""


class Observer(Protocol):
    """Is told what a scheduler does; see `genkit.serving.metrics`."""

    def batch_computed(self, kind: Kind, units: int, jobs: int, seconds: float) -> None:
        """A batch was computed, of so many units of so many jobs."""

    def work_refused(self, reason: str) -> None:
        """Work was refused, for a reason of `Refused`, or dropped, since its client `left`."""


@dataclass(frozen=True)
class Kind:
    """What jobs must have in common to share batches, and what a batch of them costs.

    Args:
        name: for people and metrics.
        key: jobs of equal keys share batches; None: a job has its batches for itself.
        limit: largest number of units in a batch.
        seconds: that a batch takes, estimated.
        window: seconds that a batch waits for as many jobs as the last one had.
    """

    name: str
    key: Hashable
    limit: int
    seconds: float
    window: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Units of one job in a batch.

    Args:
        job: that they are of.
        units: their numbers within it.
    """

    job: Job
    units: range


class Job:
    """Units of work of one client, computed in order; iterate over it for (units, result) as they are computed.

    Args:
        client: whose it is.
        kind: of the work.
        content: what to compute, for the function that computes.
        units: how many there are.
        deadline: on the clock of `time.monotonic`.
        stops: units after which a batch ends, in rising order; none: a batch ends where it is full.
        buffer_size: largest number of units that are computed and not taken yet.
    """

    def __init__(
        self,
        client: str,
        kind: Kind,
        content: Any,
        units: int,
        deadline: float,
        stops: Sequence[int] = (),
        buffer_size: int = 128,
    ) -> None:
        self.client, self.kind, self.content, self.deadline = client, kind, content, deadline
        self.units, self.buffer_size, self.arrival = (
            units,
            max(buffer_size, kind.limit),
            time.monotonic(),
        )
        self.fault: BaseException | None = None
        self.admission: Admission | None = None
        self.is_in_line = False
        self._stops = deque(stops)
        self._chosen_count = self._taken_count = 0
        self._results: deque[tuple[range, Any]] = deque()
        self._change = asyncio.Event()
        self._on_room: Callable[[Job], None] = lambda job: None

    @property
    def pending(self) -> int:
        """Units that still have to be computed and are in no batch."""
        return 0 if self.fault is not None else self.units - self._chosen_count

    @property
    def room(self) -> int:
        """Units that may be computed now: its reader takes them, sooner or later, before more are."""
        return min(self.pending, self.buffer_size - (self._chosen_count - self._taken_count))

    def choose(self, count: int) -> range:
        """The next units for a batch, at most so many."""
        while self._stops and self._stops[0] <= self._chosen_count:
            self._stops.popleft()
        stop = min([self._chosen_count + count, *list(self._stops)[:1]])
        units, self._chosen_count = range(self._chosen_count, stop), stop
        return units

    def deliver(self, units: range, result: Any) -> None:
        """Give the result of a batch to the reader."""
        self._results.append((units, result))
        self._change.set()

    def fail(self, fault: BaseException) -> None:
        """End it with an exception, which its reader gets; after the first, others say nothing new."""
        if self.fault is None:
            self.fault = fault
            self._change.set()

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> tuple[range, Any]:
        """The next units and their result.

        Raises:
            Refused: after the deadline.
        """
        if self._taken_count == self.units:
            raise StopAsyncIteration
        while not self._results:
            if self.fault is not None:
                raise self.fault
            self._change.clear()
            try:
                async with asyncio.timeout(max(self.deadline - time.monotonic(), 0)):
                    await self._change.wait()
            except TimeoutError:
                self.fail(_late())
        units, result = self._results.popleft()
        self._taken_count = units.stop
        self._on_room(self)
        return units, result


def _late() -> Refused:
    return Refused("late", "The request could not be answered in its time.")


class Admission:
    """Accepted work of a client, which counts in the queue until it is computed.

    Args:
        scheduler: that accepted it.
        client: whose it is.
        samples: that it counts as.
    """

    def __init__(self, scheduler: Scheduler, client: str, samples: int) -> None:
        self.client, self.samples = client, samples
        self._scheduler, self._counted_samples = scheduler, 0
        self.job: Job | None = None

    def enqueue(self, job: Job) -> Job:
        """Put the work into the queue, now that it is known.

        Raises:
            Refused: if it would not be done in time.
        """
        self._scheduler.put(job)
        self.job, job.admission = job, self
        return job

    def count(self, is_over: bool = False) -> int:
        """By how many samples the part of it that waits has grown since the last call."""
        share = 0.0 if is_over else 1.0 if self.job is None else self.job.pending / self.job.units
        waiting = math.ceil(self.samples * share)
        growth, self._counted_samples = waiting - self._counted_samples, waiting
        return growth


class _Group:
    """Jobs of one key.

    Args:
        kind: of the first of them.

    Attributes:
        units: that each of its jobs has to be computed.
        pending: their sum.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind, self.units, self.pending = kind, dict[Job, int](), 0

    def count(self, job: Job) -> None:
        """Count a job anew, which is in the group from then on; one that cannot be computed now leaves it."""
        units = job.pending if job.room > 0 else 0
        self.pending += units - self.units.pop(job, 0)
        if units:
            self.units[job] = units

    @property
    def seconds(self) -> float:
        """Seconds that its jobs take, estimated."""
        return -(-self.pending // self.kind.limit) * self.kind.seconds


class Scheduler:
    """The queue of one device, and the thread that computes.

    Args:
        compute: computes a batch in the thread of the device: its pieces -> a result for each.
        max_queue: largest number of samples that wait.
        share: of them, the largest number of one client's.
        observer: is told of batches and refusals.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Piece]], Sequence[Any]],
        max_queue: int,
        share: int,
        observer: Observer,
    ) -> None:
        self.max_queue, self.share, self.observer = max_queue, share, observer
        self.is_draining = False
        self._compute = compute
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genkit-device")
        self._admissions: dict[Admission, None] = {}
        self._samples_of: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[Job]] = OrderedDict()
        self._groups: dict[Hashable, _Group] = {}
        self._jobs_before: dict[Hashable, int] = {}
        self._urgent: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._arrival, self._rest = asyncio.Event(), asyncio.Event()
        self._rest.set()
        self._last_end = self._current_end = 0.0

    # What is asked of it -----------------------------------------------------------------------------------------

    @contextmanager
    def admit(self, client: str, samples: int) -> Iterator[Admission]:
        """A context in which work of a client counts in the queue; at its end, what is not computed yet is dropped.

        Raises:
            Refused: if the queue is full, the client has its share of it, or the server is about to stop.
        """
        self.check_room(client, samples)
        admission = Admission(self, client, samples)
        self._admissions[admission] = None
        self._count(admission)
        self._rest.clear()
        try:
            yield admission
        finally:
            job = admission.job
            if job is not None:
                if job.pending:
                    self.observer.work_refused("left")
                job.fail(Left("the client is gone"))
                self._recount(job)
            self._count(admission, is_over=True)
            del self._admissions[admission]
            if not self._admissions:
                self._rest.set()

    def check_room(self, client: str, samples: int = 1) -> None:
        """Raise Refused unless so many samples of a client may wait."""
        queued, own = self.queued_samples, self._samples_of[client]
        if self.is_draining:
            reason, message = "draining", "The server is about to stop."
        elif queued + samples > self.max_queue:
            reason, message = "full", f"The queue of {self.max_queue} samples is full."
        elif own + samples > self.share:
            reason, message = "share", f"At most {self.share} samples of one client may wait."
        else:
            return
        self.observer.work_refused(reason)
        raise Refused(reason, message, 5 if reason == "draining" else self.expected_wait())

    def put(self, job: Job) -> None:
        """Put a job in line; `Admission.enqueue` is for others.

        Raises:
            Refused: if it would not be done in time.
        """
        seconds = -(-job.units // job.kind.limit) * job.kind.seconds
        wait = self.expected_wait()
        if time.monotonic() + wait + seconds > job.deadline:
            self.observer.work_refused("late")
            message = "The queue is too long for the request to be answered in its time."
            raise Refused("late", message, wait)
        job._on_room = self._recount
        self._recount(job)

    async def between(self, work: Callable[[], Result]) -> Result:
        """Compute something in the thread of the device before the next batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._urgent.append((work, future))
        self._arrival.set()
        return await future

    @property
    def queued_samples(self) -> int:
        """Samples that were accepted and are in no batch yet."""
        return self._samples_of.total()

    @property
    def open_requests(self) -> int:
        """Requests that were accepted and are not answered yet."""
        return len(self._admissions)

    def expected_wait(self) -> float:
        """Seconds until all that is in line is computed, estimated."""
        current = max(self._current_end - time.monotonic(), 0.0)
        return current + sum(group.seconds for group in self._groups.values())

    async def drain(self) -> None:
        """Refuse new work from now on, and wait until all that was accepted is answered."""
        self.is_draining = True
        await self._rest.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A context in which batches are computed."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for admission in self._admissions:
                if admission.job is not None:
                    admission.job.fail(Refused("draining", "The server has stopped."))
            stop = partial(self._thread.shutdown, cancel_futures=True)
            await asyncio.get_running_loop().run_in_executor(None, stop)

    # Who is next -------------------------------------------------------------------------------------------------

    def _count(self, admission: Admission, is_over: bool = False) -> None:
        client = admission.client
        self._samples_of[client] += admission.count(is_over)
        if not self._samples_of[client]:
            del self._samples_of[client]

    def _recount(self, job: Job) -> None:
        """Count anew what of a job waits; put it in line if it can be computed and is not."""
        key = _key(job)
        group = self._groups.setdefault(key, _Group(job.kind))
        group.count(job)
        if not group.units:
            del self._groups[key]
        elif job.room > 0 and not job.is_in_line:
            job.is_in_line = True
            self._lines.setdefault(job.client, deque()).append(job)
        self._arrival.set()
        if job.admission in self._admissions:
            self._count(job.admission)

    def _leader(self) -> Job | None:
        """The job that is next, of the client whose turn it is."""
        moment = time.monotonic()
        for client in list(self._lines):
            line = self._lines[client]
            while line:
                job = line[0]
                if job.deadline < moment and job.pending:
                    job.fail(_late())
                    self.observer.work_refused("late")
                if job.room > 0:
                    return job
                line.popleft().is_in_line = False
                self._recount(job)
            del self._lines[client]
        return None

    def _next_batch(self, leader: Job) -> list[Piece]:
        """The pieces of the next batch: a unit of each client in turn, and of its jobs in turn, until it is full."""
        group = self._groups[_key(leader)]
        room = {job: job.room for job in group.units}
        lines = {
            client: deque(job for job in line if job in room)
            for client, line in self._lines.items()
        }
        rotation = deque(line for line in lines.values() if line)
        counts: Counter[Job] = Counter()
        for _ in range(group.kind.limit):
            line = rotation.popleft()
            job = line.popleft()
            counts[job] += 1
            if counts[job] < room[job]:
                line.append(job)
            if line:
                rotation.append(line)
            if not rotation:
                break
        for job in counts:  # whoever had a turn waits for the next behind those who had none
            self._lines.move_to_end(job.client)
            self._lines[job.client].remove(job)
            self._lines[job.client].append(job)
        pieces = [Piece(job, job.choose(count)) for job, count in counts.items()]
        for piece in pieces:
            self._recount(piece.job)
        return pieces

    async def _has_waited(self, leader: Job) -> bool:
        """Whether the next batch has waited for company, so that it must be chosen anew.

        It waits only while nothing else could be computed and fewer jobs are there than the last batch of its kind had,
        so a client alone never waits.
        """
        key = _key(leader)
        group, moment = self._groups[key], time.monotonic()
        is_recent = moment - self._last_end < MEMORY
        expected_jobs = self._jobs_before.get(key, 0) if is_recent else 0
        seconds = max(leader.arrival, self._last_end) + group.kind.window - moment
        is_full = group.pending >= group.kind.limit or len(group.units) >= expected_jobs
        if len(self._groups) > 1 or is_full or seconds <= 0:
            return False
        self._arrival.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrival.wait()
        return True

    # The loop ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Compute, for ever. A fault of the scheduler itself costs one job, not the queue."""
        while True:
            leader = self._leader()
            try:
                if self._urgent:
                    await self._compute_urgent()
                elif leader is None:
                    self._arrival.clear()
                    await self._arrival.wait()
                elif not await self._has_waited(leader):
                    await self._compute_batch(leader)
            except Exception as error:
                log.exception("the scheduler failed")
                if leader is not None:
                    leader.fail(error)

    async def _compute_urgent(self) -> None:
        work, future = self._urgent.popleft()
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    async def _compute_batch(self, leader: Job) -> None:
        pieces, kind = self._next_batch(leader), leader.kind
        start = time.monotonic()
        self._current_end = start + kind.seconds
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._thread, self._results, pieces)
        self._last_end = self._current_end = time.monotonic()
        units = sum(len(piece.units) for piece in pieces)
        self._jobs_before = {_key(leader): len(pieces)}
        for piece, result in zip(pieces, results, strict=True):
            if isinstance(result, Exception):
                piece.job.fail(result)
                self._recount(piece.job)
            else:
                piece.job.deliver(piece.units, result)
        self.observer.batch_computed(kind, units, len(pieces), self._last_end - start)

    def _results(self, pieces: Sequence[Piece]) -> list[Any]:
        """The result of each piece, or the exception that it raised: where a batch fails, its halves are tried."""
        try:
            results = list(self._compute(pieces))
            if len(results) != len(pieces):
                raise ValueError(f"{len(results)} results for {len(pieces)} pieces")
            return results
        except Exception as error:
            if len(pieces) == 1:
                return [error]
        middle = len(pieces) // 2
        return self._results(pieces[:middle]) + self._results(pieces[middle:])


def _key(job: Job) -> Hashable:
    """What jobs of a group have in common."""
    return id(job) if job.kind.key is None else job.kind.key
