"""Many clients on one device: the queue, who is next, what is refused, and that no sample depends on its company."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest

from genkit.serving.scheduler import Job, Kind, Left, Refused, Scheduler

# The queue: jobs of strings, computed by a function that writes down what it was given ----------------------------

LONG = 60.0
"""Seconds that no test takes."""


class Device:
    """A fake device: each unit's result is `content[unit]`; a gate keeps batches waiting, and a fault fails one."""

    def __init__(self):
        self.batches, self.gate, self.events = [], threading.Event(), []
        self.gate.set()

    def compute(self, pieces):
        self.gate.wait(LONG)
        self.batches.append([(piece.job.client, *piece.units) for piece in pieces])
        if any("bad" in piece.job.content for piece in pieces):
            raise ValueError("a bad unit")
        return [[piece.job.content[unit] for unit in piece.units] for piece in pieces]

    def batch_computed(self, kind, units, jobs, seconds):
        self.events.append((kind.name, units, jobs))

    def work_refused(self, reason):
        self.events.append(reason)


@asynccontextmanager
async def queue(max_queue=100, share=100):
    device = Device()
    scheduler = Scheduler(device.compute, max_queue, share, device)
    async with scheduler.running():
        try:
            yield scheduler, device
        finally:
            device.gate.set()


def kind(name="a", limit=4, seconds=0.0, window=0.0, key=...):
    return Kind(name, name if key is ... else key, limit, seconds, window)


FEW = kind()


async def ask(scheduler, client, content, kind=None, seconds=LONG, **settings):
    """What a client gets for a job whose units are the letters of a string (or the words of a list)."""
    with scheduler.admit(client, len(content)) as admission:
        deadline = time.monotonic() + seconds
        job = Job(client, kind or FEW, content, len(content), deadline, **settings)
        admission.enqueue(job)
        return [letter async for _, letters in job for letter in letters]


async def held(scheduler, device):
    """Close the gate with one batch of a client `x` behind it, so that others come to wait."""
    device.gate.clear()
    task = asyncio.create_task(ask(scheduler, "x", "."))
    while scheduler.queued_samples or not scheduler.open_requests:
        await asyncio.sleep(0)
    return task


async def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


def run(test):
    """A test that is a coroutine function."""
    return lambda: asyncio.run(test())


@run
async def test_units_of_one_key_share_batches_in_which_clients_and_their_jobs_take_turns():
    async with queue() as (scheduler, device):
        first = await held(scheduler, device)
        asked = [("a", "123456789"), ("a", "AB"), ("b", "xy"), ("c", "z")]
        tasks = [asyncio.create_task(ask(scheduler, *words)) for words in asked]
        other = asyncio.create_task(ask(scheduler, "d", "other", kind("other")))
        await wait_for(lambda: scheduler.queued_samples == 19)
        device.gate.set()
        answers = await asyncio.gather(*tasks)
        assert answers == [list(content) for _, content in asked]
        await asyncio.gather(first, other)
        assert device.batches[:4] == [
            [("x", 0)],
            [("a", 0), ("b", 0), ("c", 0), ("a", 0)],
            [("d", 0, 1, 2, 3)],
            [("b", 1), ("a", 1, 2), ("a", 1)],
        ]


@run
async def test_a_queue_that_is_full_a_share_that_is_used_up_and_work_that_would_be_late_are_refused():
    async with queue(max_queue=10, share=6) as (scheduler, device):
        first = await held(scheduler, device)
        waiting = [
            asyncio.create_task(ask(scheduler, "a", "12345", kind(seconds=1.0))),
            asyncio.create_task(ask(scheduler, "b", "12")),
        ]
        await wait_for(lambda: scheduler.queued_samples == 7)
        for client, content, seconds, reason in (
            ("a", "12", LONG, "share"),
            ("c", "1234", LONG, "full"),
            ("c", "1", 0.5, "late"),
        ):
            with pytest.raises(Refused) as refusal:
                await ask(scheduler, client, content, kind(seconds=1.0), seconds)
            assert refusal.value.reason == reason == device.events[-1]
            assert refusal.value.retry_after == 2, "two batches of a second each are in line"
        device.gate.set()
        await asyncio.gather(first, *waiting)
        assert await ask(scheduler, "a", "123456") == list("123456")
        assert scheduler.queued_samples == scheduler.open_requests == 0


@run
async def test_a_request_that_is_not_in_time_ends_then_and_is_not_computed():
    async with queue() as (scheduler, device):
        first = await held(scheduler, device)
        with pytest.raises(Refused, match="in its time"):
            await ask(scheduler, "a", "12", seconds=0.02)
        device.gate.set()
        await first
        assert await ask(scheduler, "b", "3") == ["3"]
        assert device.batches == [[("x", 0)], [("b", 0)]]


@run
async def test_work_of_a_client_that_left_is_dropped_before_its_batch_and_between_its_batches():
    async with queue() as (scheduler, device):
        first = await held(scheduler, device)
        gone = asyncio.create_task(ask(scheduler, "gone", "12"))
        other = asyncio.create_task(ask(scheduler, "b", "3"))
        await wait_for(lambda: scheduler.queued_samples == 3)
        gone.cancel()
        device.gate.set()
        assert await other == ["3"]
        await first
        with scheduler.admit("half", 100) as admission:
            job = admission.enqueue(Job("half", kind(), "." * 100, 100, time.monotonic() + LONG))
            await anext(job)
        assert scheduler.queued_samples == scheduler.open_requests == 0
        await ask(scheduler, "b", "3")
        clients = [client for batch in device.batches for client, *_ in batch]
        assert "gone" not in clients
        assert clients.count("half") < 10, "the rest of a hundred units, four a batch"
        assert device.events.count("left") == 2
        with pytest.raises(Left):
            [units async for units in job]


@run
async def test_a_bad_request_fails_alone():
    async with queue() as (scheduler, device):
        first = await held(scheduler, device)
        contents = ["1", ["bad"], "3"]
        tasks = [asyncio.create_task(ask(scheduler, str(n), c)) for n, c in enumerate(contents)]
        await wait_for(lambda: scheduler.queued_samples == 3)
        device.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        assert answers[::2] == [["1"], ["3"]]
        assert isinstance(answers[1], ValueError)
        assert [len(batch) for batch in device.batches] == [1, 3, 1, 2, 1, 1]


@run
async def test_results_that_are_missing_are_an_error_and_no_endless_wait():
    async with queue() as (scheduler, device):
        device.compute = None
        scheduler._compute = lambda pieces: []
        with pytest.raises(ValueError, match="0 results for 1 pieces"):
            await ask(scheduler, "a", "1")


@run
async def test_a_slow_reader_holds_up_nobody_and_little_is_computed_ahead_of_it():
    async with queue(1000, 1000) as (scheduler, device):
        with scheduler.admit("slow", 500) as admission:
            job = Job("slow", kind(), "." * 500, 500, time.monotonic() + LONG, buffer_size=8)
            admission.enqueue(job)
            await wait_for(lambda: len(device.batches) == 2)
            assert await ask(scheduler, "quick", "1234567") == list("1234567")
            await asyncio.sleep(0.01)
            counts = [len(units) for batch in device.batches for _, *units in batch]
            assert sum(counts) == 8 + 7
            assert scheduler.expected_wait() == 0
            units = [units async for units, _ in job]
        assert sum(map(len, units)) == 500


@run
async def test_a_client_alone_never_waits_and_a_batch_waits_for_those_of_the_last():
    async with queue() as (scheduler, device):
        patient = kind(window=LONG)
        for letter in "123":
            assert await ask(scheduler, "a", letter, patient) == [letter]
        first = await held(scheduler, device)
        pair = [asyncio.create_task(ask(scheduler, client, "1", patient)) for client in "ab"]
        await wait_for(lambda: scheduler.queued_samples == 2)
        device.gate.set()
        await asyncio.gather(first, *pair)
        early = asyncio.create_task(ask(scheduler, "a", "1", patient))
        await asyncio.sleep(0.02)
        assert not early.done(), "two were in the last batch"
        await asyncio.gather(early, ask(scheduler, "b", "1", patient))
        assert device.batches[-2:] == [[("a", 0), ("b", 0)]] * 2
        brief = kind(window=0.01)
        assert await ask(scheduler, "a", "1", brief) == ["1"], "the window ends"
        late = asyncio.create_task(ask(scheduler, "a", "1", patient))
        await asyncio.sleep(0.02)
        assert late.done(), "the last batch had one"


@run
async def test_draining_refuses_new_work_and_answers_all_that_was_accepted():
    async with queue() as (scheduler, device):
        first = await held(scheduler, device)
        accepted = asyncio.create_task(ask(scheduler, "a", "123456789"))
        await wait_for(lambda: scheduler.queued_samples == 9)
        drained = asyncio.create_task(scheduler.drain())
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="about to stop"):
            await ask(scheduler, "b", "1")
        assert not drained.done()
        device.gate.set()
        assert await accepted == list("123456789")
        await drained
        await first


@run
async def test_batches_of_a_job_alone_end_where_it_says_and_others_work_comes_between():
    async with queue() as (scheduler, device):
        alone = kind("alone", limit=8, key=None)
        first = await held(scheduler, device)
        tasks = [
            asyncio.create_task(ask(scheduler, client, "123456789", alone, stops=[3, 5]))
            for client in "ab"
        ]
        await wait_for(lambda: scheduler.queued_samples == 18)
        between = asyncio.create_task(scheduler.between(lambda: device.batches.append("between")))
        await asyncio.sleep(0)
        device.gate.set()
        await asyncio.gather(first, between, *tasks)
        parts = [(0, 1, 2), (3, 4), (5, 6, 7, 8)]
        expected = [[(client, *units)] for units in parts for client in "ab"]
        assert device.batches == [[("x", 0)], "between", *expected]


@run
async def test_an_exception_between_batches_is_the_callers():
    async with queue() as (scheduler, _):
        with pytest.raises(ZeroDivisionError):
            await scheduler.between(lambda: 1 / 0)
        assert await ask(scheduler, "a", "1") == ["1"]
