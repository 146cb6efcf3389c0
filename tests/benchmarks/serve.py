"""A server under load: python tests/benchmarks/serve.py MODEL [--seconds 10] [--only throughput,alone,...]

Starts `genkit serve` as users do, and clients in this process. Prints a figure a line, each beside what it is compared
with; on a shared machine only the comparisons mean something.

    throughput   64 clients that ask for single samples, against a plain FastAPI handler calling `model.generate(1)`
    alone        one client's latency, against `model.generate(1)` and its file in this process
    overload     five times the capacity: what is answered, how fast the rest is refused, memory, recovery
    leaving      clients that disconnect at random moments, and readers of one byte a second, beside ordinary ones
    stops        SIGTERM under load, again and again: what was accepted is answered, exit code 0
    equality     answers under load against the files of `genkit generate`, byte for byte
    fuzz         bodies of random JSON: no answer of 500
    soak         half of the capacity: latency of the last part against that of the first
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAIN = """
import sys, socket, torch, uvicorn, genkit
from fastapi import FastAPI, Response
model, app = genkit.load(sys.argv[1], device="cpu"), FastAPI()
@app.post("/v1/generate")
def generate(body: dict) -> Response:
    return Response(model.generate(1, seed=body["seed"]).encode()[0])
listener = socket.create_server(("127.0.0.1", 0))
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])
"""

TIMEOUT = 120
CONNECTIONS = 512
ORDINARY, OTHERS = "token-of-the-ordinary", "token-of-the-others"
TURN = 20
"""Samples of one way in a row: threads of a parallel loop spin for a while after its end, in the way of others."""


class Server:
    """A server in a process of its own; a context."""

    def __init__(self, *words):
        self.words = words

    def __enter__(self):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, *self.words], stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        address = self.process.stdout.readline().strip()
        if not address:
            self.errors.seek(0)
            raise SystemExit(self.errors.read())
        self.host, self.port = address.removeprefix("http://").split(":")
        return self

    def __exit__(self, *error):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def genkit_server(model, *options):
    words = ["-m", "genkit", "serve", f"model={model}", "--port", "0", "--device", "cpu"]
    return Server(*words, "--set", "log=false", *options)


class Connection:
    """A connection of HTTP/1.1, as quick as Python allows."""

    def __init__(self, server, token=""):
        self.server, self.token, self.reader, self.writer = server, token, None, None

    async def post(self, body, path="/v1/generate"):
        """(status, headers, content) of a request; (0, {}, b"") if the server refuses the connection."""
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(
                    self.server.host, self.server.port
                )
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            head += f"authorization: Bearer {self.token}\r\n" if self.token else ""
            self.writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            return await asyncio.wait_for(self._answer(), TIMEOUT)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            is_lost = isinstance(error, asyncio.IncompleteReadError) and error.partial
            return (-1 if is_lost else 0), {}, b""

    async def _answer(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        if "content-length" in headers:
            content = await self.reader.readexactly(int(headers["content-length"]))
        else:
            content = b""
            while size := int(await self.reader.readline(), 16):
                content += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        if headers.get("connection") == "close":
            self.close()
        return status, headers, content

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = None


async def closed_loop(server, clients, seconds, results, first_seed=0, more=None, token=""):
    """Clients that ask for the next sample as soon as they have the last; (seed, seconds, status, content) each."""
    end, seeds = time.perf_counter() + seconds, iter(range(first_seed, 10**9))

    async def client():
        connection = Connection(server, token)
        while time.perf_counter() < end:
            seed, start = next(seeds), time.perf_counter()
            status, _, content = await connection.post({"seed": seed, **(more or {})})
            results.append((seed, time.perf_counter() - start, status, content))
            if not status:
                break
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(server, rate, seconds, results, first_seed=0, more=None):
    """Requests at a rate, whether earlier ones are answered or not, over at most CONNECTIONS connections."""
    pool, tasks, start = asyncio.LifoQueue(), [], time.perf_counter()
    for _ in range(CONNECTIONS):
        pool.put_nowait(Connection(server))

    async def one(seed):
        connection = await pool.get()
        begin = time.perf_counter()
        status, headers, content = await connection.post({"seed": seed, **(more or {})})
        results.append((seed, time.perf_counter() - begin, status, content, headers))
        pool.put_nowait(connection)

    for number in range(int(rate * seconds)):
        delay = start + number / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(first_seed + number)))
    await asyncio.gather(*tasks)
    while not pool.empty():
        pool.get_nowait().close()


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def milliseconds(results):
    seconds = [row[1] for row in results]
    return (
        f"p50 {1e3 * percentile(seconds, 0.5):.1f} ms, p99 {1e3 * percentile(seconds, 0.99):.1f} ms"
    )


def throughput(model, seconds):
    rates = {}
    for name, server in (
        ("plain", Server("-c", PLAIN, model)), ("genkit", genkit_server(model)),
        ("plain again", Server("-c", PLAIN, model)), ("genkit again", genkit_server(model)),
    ):  # fmt: skip
        with server:
            results = []
            asyncio.run(closed_loop(server, 64, 1, []))
            asyncio.run(closed_loop(server, 64, seconds, results))
            answered = [row for row in results if row[2] == 200]
            rates[name] = len(answered) / seconds
            print(f"throughput: {name}: {rates[name]:.0f} requests/s, {milliseconds(answered)}, "
                  f"{len(results) - len(answered)} without an answer")  # fmt: skip
    ratio = rates["genkit"] / rates["plain"], rates["genkit again"] / rates["plain again"]
    print(f"throughput: ratio {ratio[0]:.1f}, {ratio[1]:.1f} (at least 6)")


def alone(model, seconds):
    import genkit

    loaded = genkit.load(model, device="cpu")
    with genkit_server(model) as server:

        async def both():
            connection, served, local = Connection(server), [], []
            end, seeds = time.perf_counter() + seconds, itertools.count()
            while time.perf_counter() < end:  # in turn, so that both see the same machine
                for seed in itertools.islice(seeds, TURN):
                    start = time.perf_counter()
                    await connection.post({"seed": seed})
                    served.append(time.perf_counter() - start)
                for seed in itertools.islice(seeds, TURN):
                    start = time.perf_counter()
                    loaded.generate(1, seed=seed).encode()
                    local.append(time.perf_counter() - start)
            connection.close()
            return served[TURN:], local[TURN:]

        served, local = (1e3 * statistics.median(values) for values in asyncio.run(both()))
    print(
        f"alone: {served:.1f} ms served, {local:.1f} ms in the process: {served - local:+.1f} ms (at most 5)"
    )


def capacity(server, seconds=3, clients=128, more=None):
    results = []
    asyncio.run(closed_loop(server, clients, seconds, results, more=more))
    return sum(row[2] == 200 for row in results) / seconds


def overload(model, seconds):
    """Singly, where this process needs as much of the machine as the server, and by whole chunks."""
    for n in (1, 16):
        _overload(model, seconds, n)


def _overload(model, seconds, n):
    title, more = f"overload: {n} at a time", {"n": n, "answer": "zip" if n > 1 else "file"}
    with genkit_server(model, "--max-queue", "128", "--set", "max_share=128") as server:
        rate = capacity(server, clients=128 // n, more=more)
        before, results, start = server.memory(), [], time.perf_counter()
        asyncio.run(open_loop(server, 5 * rate, seconds, results, more=more))
        took, after = time.perf_counter() - start, server.memory()
        answered = [row for row in results if row[2] == 200]
        refused = [row for row in results if row[2] in (429, 503)]
        other = len(results) - len(answered) - len(refused)
        told = sum("retry-after" in row[4] for row in refused)
        print(f"{title}: capacity {rate:.0f}/s, asked {len(results) / took:.0f}/s, answered "
              f"{len(answered) / took:.0f}/s ({milliseconds(answered)})")  # fmt: skip
        if refused:
            print(f"{title}: refused {len(refused)} ({milliseconds(refused)}; at most 100 ms), {told} of them with "
                  f"Retry-After, {other} with neither "
                  f"{sorted({row[2] for row in results})}")  # fmt: skip
        print(f"{title}: memory {before:.0f} -> {after:.0f} MB")
        start, status = time.perf_counter(), 0
        while status != 200:
            status, _, _ = asyncio.run(Connection(server).post({"seed": 1}))
        print(f"{title}: answers again after {time.perf_counter() - start:.2f} s (at most 1)")
        if n == 1:
            check(model, [(row[0], row[3]) for row in answered][:2000], title)


def leaving(model, seconds):
    tokens = Path(tempfile.mkdtemp()) / "tokens"
    tokens.write_text(f"{ORDINARY}\n{OTHERS}\n")
    with genkit_server(model, "--token-file", str(tokens)) as server:
        asyncio.run(closed_loop(server, 16, 2, [], token=ORDINARY))
        before, files, alone = server.memory(), server.open_files(), []
        asyncio.run(closed_loop(server, 16, seconds, alone, token=ORDINARY))

        async def send(writer, body):
            content = json.dumps(body)
            head = f"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OTHERS}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            writer.write((head + content).encode())

        async def leaver():
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection(server.host, server.port)
                    await send(writer, {"n": 64, "seed": random.randrange(10**6), "answer": "json"})
                    await asyncio.sleep(random.expovariate(0.5))
                    writer.transport.abort()

        async def slow():
            reader, writer = await asyncio.open_connection(server.host, server.port, limit=2)
            await send(writer, {"n": 64, "answer": "events"})
            end = time.perf_counter() + seconds
            while time.perf_counter() < end and await reader.read(1):
                await asyncio.sleep(1)
            writer.transport.abort()

        async def all_of_them(results):
            others = [*(leaver() for _ in range(500)), *(slow() for _ in range(50))]
            load = closed_loop(server, 16, seconds, results, token=ORDINARY)
            await asyncio.gather(load, *others)

        results = []
        asyncio.run(all_of_them(results))
        time.sleep(2)
        figures = metrics(server, ORDINARY)
        print(f"leaving: alone {len(alone)} ordinary requests answered, {milliseconds(alone)}")
        print(f"leaving: among others {sum(row[2] == 200 for row in results)} of {len(results)} answered, "
              f"{milliseconds(results)}")  # fmt: skip
        dropped = figures.get('genkit_refusals_total{reason="left"}', 0)
        print(f"leaving: dropped {dropped:.0f}, still open "
              f"{figures['genkit_open_requests']:.0f}, in the queue {figures['genkit_queue_samples']:.0f}")  # fmt: skip
        print(
            f"leaving: memory {before:.0f} -> {server.memory():.0f} MB, files {files} -> {server.open_files()}"
        )


def metrics(server, token=""):
    import urllib.request

    url, headers = (
        f"http://{server.host}:{server.port}/metrics",
        {"authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"
    }


def stops(model, seconds, times=20):
    lost = codes = answered = 0
    for _ in range(times):
        with genkit_server(model) as server:
            results = []

            async def load(server=server, results=results):
                task = asyncio.create_task(closed_loop(server, 32, 60, results))
                await asyncio.sleep(random.uniform(0.3, 1))
                server.process.send_signal(signal.SIGTERM)
                await task

            asyncio.run(load())
            codes += server.process.wait(30) != 0
        lost += sum(row[2] not in (0, 200, 503) for row in results)
        answered += sum(row[2] == 200 for row in results)
    print(f"stops: {times} times SIGTERM: {answered} answered, {lost} accepted and not answered, "
          f"{codes} exit codes that are not 0")  # fmt: skip


def equality(model, seconds):
    with genkit_server(model) as server:
        results = []
        asyncio.run(closed_loop(server, 64, seconds, results))
    check(model, [(row[0], row[3]) for row in results], "equality")


def check(model, answers, title):
    """Compare answers (seed, content) with what `genkit generate` writes for the same seeds."""
    chosen = random.Random(0).sample(answers, min(200, len(answers)))
    code = (
        "import sys, json, genkit; m = genkit.load(sys.argv[1], device='cpu')\n"
        "for s in json.load(sys.stdin): sys.stdout.write(m.generate(1, seed=s).encode()[0].hex() + '\\n')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, model], input=json.dumps([seed for seed, _ in chosen]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    equal = sum(
        bytes.fromhex(line) == content
        for line, (_, content) in zip(run.stdout.split(), chosen, strict=True)
    )
    print(
        f"{title}: {equal} of {len(chosen)} answers are byte-equal to those of `generate`, of {len(answers)} in all"
    )


KEYS = [
    "model",
    "n",
    "seed",
    "start",
    "label",
    "condition",
    "controls",
    "best_of",
    "interpolate",
    "steps",
    "format",
]
KEYS += ["answer", "prompt", "temperature", "stream", "x"]
VALUES = [
    0,
    1,
    2,
    -1,
    3.5,
    1e308,
    2**70,
    "",
    "png",
    "zip",
    "json",
    "events",
    "stream",
    "../../etc/passwd",
    "\x00",
    True,
]
VALUES += [
    None,
    [],
    [0, 1],
    {},
    {"truncation": 0.5},
    {"format": "wav", "data": "AAAA"},
    {"a": {"b": [1]}},
    "é" * 9,
]


def fuzz(model, seconds):
    chance = random.Random(0)
    with genkit_server(model) as server:

        async def ask():
            connection, statuses = Connection(server), {}
            for number in range(1000):
                body = {
                    chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(5))
                }
                content = json.dumps(body).encode()
                if number % 10 == 0:
                    content = content[: chance.randrange(len(content) + 1)]
                path = chance.choice(
                    ["/v1/generate"] * 3 + ["/v1/images/generations", "/v1/completions"]
                )
                status, _, _ = await connection.post(content, path)
                statuses[status] = statuses.get(status, 0) + 1
            connection.close()
            return statuses

        statuses = asyncio.run(ask())
        log = server.log()
    print(
        f"fuzz: 1,000 bodies: {dict(sorted(statuses.items()))}, {log.count('Traceback')} tracebacks"
    )


def soak(model, seconds):
    with genkit_server(model) as server:
        rate, results = capacity(server) / 2, []
        asyncio.run(open_loop(server, rate, max(seconds, 10), results))
        part = len(results) // 5
        first, last = ([row[1] for row in rows] for rows in (results[:part], results[-part:]))
        ratio = percentile(last, 0.99) / percentile(first, 0.99)
        print(f"soak: {rate:.0f}/s; p99 of the last fifth over that of the first: {ratio:.2f} (at most 1.2); "
              f"{sum(row[2] != 200 for row in results)} of {len(results)} not answered "
              f"{sorted({row[2] for row in results})}; {milliseconds(results)}")  # fmt: skip


CHECKS = (throughput, alone, overload, leaving, stops, equality, fuzz, soak)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", default=",".join(check.__name__ for check in CHECKS))
    arguments = parser.parse_args()
    for check in CHECKS:
        if check.__name__ in arguments.only.split(","):
            check(arguments.model, arguments.seconds)


if __name__ == "__main__":
    main()
