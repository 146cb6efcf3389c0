"""Models behind HTTP: what is asked and answered, what is refused, and that nothing of a request does harm."""

import asyncio
import base64
import io
import json
import os
import re
import tempfile
import zipfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import httpx2
import pytest
import toys
from toy_curves import curves

import genkit
from genkit.plugin import Conditions
from genkit.serving.app import create_app
from genkit.serving.models import Catalogue, Measured
from genkit.serving.settings import ServeSettings
from genkit.serving.web import _Broken

# Models: the toys, some of them in other clothes -----------------------------------------------------------------


class Verses(toys.Language):
    """The tiny language as lines of text, and its first word as a prompt."""

    def conditions(self):
        return Conditions(text=True)

    def condition(self, value, indices):
        return None if value is None else toys.torch.full((len(indices), len(value)), 1)

    def encode(self, sample, format, controls):
        return "".join(
            "abcd"[word] for word, is_word in zip(sample.x, sample.mask, strict=True) if is_word
        ).encode()

    def preview(self, samples, format, controls, columns=None):
        return b"\n".join(self.encode_each(samples, format, controls))


class Echo(toys.Duet):
    """A conditional point whose condition is a file: the class is the number of its bytes."""

    paths = []

    def conditions(self):
        return Conditions(formats=("bin",))

    def condition(self, value, indices):
        if value is None:
            return None
        with open(value, "rb") as file:
            self.paths.append(value)
            content = file.read()
        if len(content) > 2:
            raise genkit.errors.ConfigError(f"{value}: more than 2 bytes")
        return toys.torch.full((len(indices),), len(content))


verses = replace(
    toys.language,
    id="verses",
    plugin=Verses,
    media_type="text/plain",
    formats=("txt",),
    preview_formats=("txt",),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    toys.torch.set_num_threads(1)
    return {
        manifest.id: genkit.train(manifest, out=folder / manifest.id, items=256, threads=1)
        for manifest in (toys.ring, verses, toys.duet, curves)
    }


@asynccontextmanager
async def serving(models, **settings):
    """A client of a server of these models, within this process."""
    app = create_app(ServeSettings(models=models, **settings))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        client.service = app.state.service
        client.app = app
        yield client


def generate(client, **body):
    return client.post("/v1/generate", json=body)


def npy(samples):
    return samples.encode("npy")


class Visit:
    """A request below HTTP: its client may leave, and read as slowly as it likes.

    Attributes:
        status: of the answer; None before it.
        bodies: of the answer, as the server sends them.
        reading: while it is not set, the client reads nothing.
        gone: is set when the client leaves.
    """

    def __init__(self, app, path="/v1/generate", headers=(), content=None, **body):
        self.status, self.bodies = None, []
        self.reading, self.gone = asyncio.Event(), asyncio.Event()
        self.reading.set()
        content = json.dumps(body).encode() if content is None else content
        contents = [content] if isinstance(content, bytes) else content
        self.contents = iter(enumerate(contents, 1 - len(contents)))
        known = {"host": "localhost", "content-type": "application/json", **dict(headers)}
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in known.items()], "client": ("x", 1),
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self):
        for number, content in self.contents:
            if content is None:
                await self.gone.wait()
            return {"type": "http.request", "body": content, "more_body": number < 0}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.reading.wait()
        self.status = message.get("status", self.status)
        if message.get("body"):
            self.bodies.append(message["body"])

    async def end(self):
        await asyncio.wait_for(self.task, 60)


async def wait_for(condition):
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


@contextmanager
def patched(owner, name, value):
    """An attribute with another value; for coroutines, which get no fixtures here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def run(test):
    """A test with the fixture `models` that is a coroutine function."""
    return lambda models: asyncio.run(test(models))


# What is answered ------------------------------------------------------------------------------------------------


@run
async def test_files_under_load_are_those_of_generate_byte_for_byte(models):
    duet, verses = models["duet"], models["verses"]
    asked, expected = [], []
    for number in range(40):
        label, scale = [None, "class1", "class2"][number % 3], [1.0, 0.5][number % 2]
        body = {"model": "duet", "seed": number, "start": number % 5, "label": label}
        asked.append({**body, "controls": {"scale": scale}})
        controls = {"scale": scale}
        expected += npy(duet.generate(1, number, number % 5, label=label, controls=controls))
        asked.append({"model": "verses", "seed": number, "format": "txt"})
        expected += verses.generate(1, number).encode()
    async with serving(models) as client:
        answers = await asyncio.gather(*(generate(client, **body) for body in asked))
        assert [answer.content for answer in answers] == expected
        text = (await client.get("/metrics")).text
        assert float(re.search(r'genkit_batch_samples_count{model="duet"} (\S+)', text)[1]) < 20
        assert 'genkit_samples_total{model="verses"} 40.0' in text


@run
async def test_a_model_with_defaults_of_its_own_answers_with_them(models):
    duet = models["duet"]
    half = replace(duet, info={**duet.info, "controls": {"scale": 0.5}})
    async with serving({"half": half, "duet": duet}) as client:
        details = (await client.get("/v1/models/half")).json()
        assert details["controls"]["properties"]["scale"]["default"] == 0.5
        answer = await generate(client, model="half", n=1)
        assert [answer.content] == npy(duet.generate(1, controls={"scale": 0.5}))
        answer = await generate(client, model="half", controls={"scale": 1.0})
        assert [answer.content] == npy(duet.generate(1))


@run
async def test_one_sample_is_a_file_and_many_are_an_archive_of_what_is_written_into_a_folder(
    models,
):
    async with serving(models) as client:
        one = await generate(client, model="duet", seed=3, start=2)
        assert one.content == npy(models["duet"].generate(1, 3, 2))[0]
        assert one.headers["content-type"] == "application/octet-stream"
        assert one.headers["content-disposition"] == 'inline; filename="duet-3-000002.npy"'
        assert one.headers["content-length"] == str(len(one.content))
        assert one.headers["genkit-seed"] == "3"
        joint = await generate(client, model="duet", n=3, seed=3, answer="file", format="txt")
        assert joint.headers["content-type"] == "text/plain; charset=utf-8"
        many = await generate(client, model="duet", n=70, seed=3, start=60)
    samples = models["duet"].generate(70, 3, 60)
    with tempfile.TemporaryDirectory() as folder:
        written = {path.name: path.read_bytes() for path in samples.save(folder)}
        assert (
            joint.content == models["duet"].generate(3, 3).save(f"{folder}/a.txt")[0].read_bytes()
        )
    archive = zipfile.ZipFile(io.BytesIO(many.content))
    assert archive.namelist() == list(written)
    listed = json.loads(archive.read("samples.json"))
    assert listed["model"].pop("path") is None
    expected = json.loads(written.pop("samples.json"))
    del expected["model"]["path"]
    assert listed == expected
    assert {name: archive.read(name) for name in written} == written


@run
async def test_json_and_events_hold_the_same_rows_with_their_files(models):
    body = {"model": "verses", "n": 3, "seed": 5}
    async with serving(models) as client:
        whole = (await generate(client, **body, answer="json")).json()
        events = await generate(client, **body, answer="events")
    assert events.headers["content-type"] == "text/event-stream"
    *rows, end = [line.split("\n") for line in events.text.strip().split("\n\n")]
    assert end == ["event: end", 'data: {"samples": 3}']
    assert [json.loads(data.removeprefix("data: ")) for _, data in rows] == whole["samples"]
    for row, content in zip(
        whole["samples"], models["verses"].generate(3, 5).encode(), strict=True
    ):
        assert base64.b64decode(row["data"]) == content == row["text"].encode()
        assert (row["seed"], row["media_type"]) == (5, "text/plain")


@run
async def test_a_long_sample_is_sent_while_it_is_drawn_and_texts_line_by_line(models):
    async with serving(models) as client:
        controls = {"steps": 100}
        long = await generate(client, model="curves", seed=4, answer="stream", controls=controls)
        assert long.content == models["curves"].generate(1, 4, controls=controls).encode()[0]
        visit = Visit(client.app, model="verses", n=70, seed=4, answer="stream")
        await visit.end()
    lines = [line + b"\n" for line in models["verses"].generate(70, 4).encode()]
    assert visit.bodies == [b"".join(lines[:64]), b"".join(lines[64:])]


@run
async def test_interpolations_and_the_best_of_several_are_those_of_the_model(models):
    duet = models["duet"]
    async with serving(models) as client:
        body = {"model": "duet", "seed": 2, "answer": "json"}
        between = (await generate(client, **body, interpolate=[3, 170, 5], steps=4)).json()
        best = (await generate(client, **body, n=2, start=5, best_of=3)).json()
        drawn = (await generate(client, **body, n=2, best_of=9, choose="sample:2")).json()
    interpolation = duet.interpolate([3, 170, 5], 2, steps=4)
    assert files_of(between) == npy(interpolation)
    assert between["samples"][5]["share"] == 0.25
    assert files_of(best) == npy(duet.generate(2, 2, 5, best_of=3))
    assert best["best_of"] == 3
    assert files_of(drawn) == npy(duet.generate(2, 2, best_of=9, choose="sample:2"))
    assert drawn["choose"] == "sample:2"


def files_of(document):
    return [base64.b64decode(row["data"]) for row in document["samples"]]


@run
async def test_where_places_differ_requests_are_drawn_alone_with_the_same_bits(models):
    async with serving(models) as client:
        opened = client.service.catalogue._entries["duet"].model
        await generate(client, model="duet")
        (measured,) = opened._measured.values()
        measured.shares_chunks = False
        body = {"model": "duet", "seed": 2, "answer": "json"}
        apart = (await generate(client, **body, n=9, start=60)).json()
        between = (await generate(client, **body, interpolate=[3, 170, 5], steps=40)).json()
    assert files_of(apart) == npy(models["duet"].generate(9, 2, 60))
    assert files_of(between) == npy(models["duet"].interpolate([3, 170, 5], 2, steps=40))


# What is refused -------------------------------------------------------------------------------------------------

WRONG = {
    "an unknown model": ({"model": "rings"}, 404, "unknown_model", "Did you mean 'ring'"),
    "an unknown key": ({"seeds": 3}, 422, "invalid_request", "seeds: Extra inputs"),
    "a number as text": ({"n": "3"}, 422, "invalid_request", "n: Input should be a valid integer"),
    "no samples": ({"n": 0}, 422, "invalid_request", "greater than or equal to 1"),
    "too many samples": ({"n": 257}, 422, "invalid_request", "a request may ask for 256"),
    "a choice of nothing": ({"choose": "sample"}, 422, "invalid_request", "give best_of"),
    "too many candidates": ({"best_of": 17}, 422, "invalid_request", "ask for 16 candidates"),
    "a long interpolation": ({"interpolate": [0, 1], "steps": 256}, 422, "invalid_request", "257 samples"),
    "steps of nothing": ({"steps": 3}, 422, "invalid_request", "give interpolate, too"),
    "two kinds": ({"interpolate": [0, 1], "n": 2}, 422, "invalid_request", "interpolate excludes n"),
    "an unknown control": (
        {"model": "duet", "controls": {"scales": 1}}, 422, "invalid_request", "Did you mean 'scale'",
    ),
    "a control of another type": ({"model": "duet", "controls": {"scale": []}}, 422, "invalid_request", "scale"),
    "a control that is not finite": ('{"controls": {"scale": Infinity}}', 422, "invalid_request", "finite"),
    "an unknown format": ({"format": "png"}, 422, "invalid_request", "ring writes npy"),
    "no joint file": ({"n": 2, "answer": "file"}, 422, "invalid_request", "writes no file of 2 samples"),
    "no stream": ({"answer": "stream"}, 422, "invalid_request", "one length: ask for events"),
    "a stream of many": ({"model": "curves", "n": 2, "answer": "stream"}, 422, "invalid_request", "one sample"),
    "a label of none": ({"label": "x"}, 422, "invalid_request", "It takes none"),
    "an unknown label": ({"model": "duet", "label": "class7"}, 422, "invalid_request", "Did you mean 'class2'"),
    "a file for labels": (
        {"model": "duet", "condition": {"format": "bin", "data": ""}}, 422, "invalid_request", "conditions: none",
    ),
    "a sample without an end": (
        {"model": "curves", "controls": {"steps": 10**15}}, 422, "invalid_request", "compute for about",
    ),
    "no JSON": ("{", 422, "invalid_request", "Invalid JSON"),
    "no body": ("", 422, "invalid_request", "Invalid JSON"),
}  # fmt: skip


@run
async def test_a_wrong_request_is_a_document_that_says_what_is_wrong(models):
    async with serving(models) as client:
        for name, (body, status, code, detail) in WRONG.items():
            content = body if isinstance(body, str) else json.dumps(body)
            headers = {"content-type": "application/json", "x-request-id": "mine"}
            answer = await client.post("/v1/generate", content=content, headers=headers)
            assert answer.status_code == status, name
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["type"] == f"urn:genkit:problem:{code}"
            assert problem["instance"] == "urn:genkit:request:mine"
            assert re.search(detail, problem["detail"]), (name, problem["detail"])
            assert problem["error"]["message"] == problem["detail"]
        assert (await client.get("/nope")).json()["status"] == 404
        assert (await client.put("/v1/generate")).json()["status"] == 405
        assert (await client.post("/v1/generate", content="{}")).status_code == 415
        assert client.service.scheduler.open_requests == 0


class Nan(toys.Duet):
    """Its samples of class 1 are not finite; of class 2 they cannot be drawn at all."""

    def networks(self):
        networks = super().networks()
        forward = networks.generator.forward

        def broken(noise, condition=None, controls=None):
            if bool((condition == 2).any()):
                raise RuntimeError("the secret of class 2")
            sample = forward(noise, condition, controls)
            sample.x[condition == 1] = toys.torch.nan
            return sample

        networks.generator.forward = broken
        return networks


@run
async def test_requests_that_fail_do_not_fail_those_of_their_batch_and_tell_nothing_of_the_inside(
    models,
):
    broken = genkit.load(models["duet"].path, modality=replace(toys.duet, plugin=Nan))
    async with serving({"broken": broken}) as client:
        for opened in (
            client.service.catalogue.open_models
        ):  # no default condition is measured: it has all classes
            opened._measured[((), toys.torch.int64)] = Measured(True, 0.01, 8)
        labels = ["class0", "class1", "class2"] * 4
        tasks = [generate(client, label=label, seed=n) for n, label in enumerate(labels)]
        answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [200, 500, 500] * 4
    for number in range(0, 12, 3):
        expected = npy(models["duet"].generate(1, number, label="class0"))
        assert [answers[number].content] == expected
    for answer in answers:
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text


@run
async def test_an_error_after_the_first_events_is_an_event(models):
    calls, encode = [], toys.Duet.encode_each

    def fail(self, samples, format, controls):
        calls.append(len(samples))
        if len(calls) == 2:
            raise RuntimeError("the secret of the second piece")
        return encode(self, samples, format, controls)

    with patched(toys.Duet, "encode_each", fail):
        async with serving(models) as client:
            answer = await generate(client, model="duet", n=70, answer="events")
    *_, last = answer.text.strip().split("\n\n")
    assert calls == [64, 6]
    assert last.startswith("event: error\n")
    assert "model_failed" in last
    assert "secret" not in answer.text


@run
async def test_limits_of_bodies_work_memory_requests_and_streams(models):
    async with serving(models, max_body_mb=1) as client:
        headers = {"content-type": "application/json"}
        long = Visit(client.app, content=[b" " * 600_000] * 2)
        await long.end()
        answer = await client.post("/v1/generate", content=b" " * 1_000_001, headers=headers)
        assert (long.status, answer.status_code) == (413, 413)
        assert answer.json()["detail"] == "A request may have 1 MB."
    async with serving(models, max_seconds=1e-9) as client:
        assert "compute for about" in (await generate(client)).json()["detail"]
    async with serving(models, max_answer_mb=1) as client:
        opened = client.service.catalogue._entries["curves"].model
        await generate(client, model="curves")
        opened.measured(None).nbytes = 1000
        long = {"model": "curves", "controls": {"steps": 1001}}
        assert "or for a stream" in (await generate(client, **long)).json()["detail"]
        assert (await generate(client, **long, answer="stream")).status_code == 200
    async with serving(models, max_requests=1, max_streams=1, max_queue=4) as client:
        open_streams = Visit(client.app, n=4, answer="events")
        open_streams.reading.clear()
        await wait_for(lambda: client.service.scheduler.open_requests == 1)
        second = await generate(client)
        assert (second.status_code, second.json()["detail"]) == (503, "Too many requests are open.")
        client.service.settings.__dict__["max_requests"] = 9
        stream = await generate(client, answer="events")
        assert (stream.status_code, stream.json()["error"]["code"]) == (503, "full")
        open_streams.reading.set()
        await open_streams.end()
        assert (await generate(client, answer="events")).status_code == 200


@run
async def test_a_queue_that_is_full_says_when_to_come_again_and_one_client_has_its_share(models):
    async with serving(models, max_queue=8, max_share=4) as client:
        scheduler = client.service.scheduler
        with scheduler.admit("x", 4), scheduler.admit("y", 3):
            share = Visit(client.app)
            await share.end()
            full = await generate(client, n=2)
    assert share.status == 429
    assert json.loads(share.bodies[0])["error"]["code"] == "share"
    assert (full.status_code, full.json()["error"]["code"]) == (503, "full")
    assert int(full.headers["retry-after"]) >= 1


@run
async def test_where_nothing_would_be_accepted_no_body_is_waited_for(models):
    async with serving(models, max_queue=4, max_share=4) as client:
        scheduler = client.service.scheduler
        with scheduler.admit("y", 4):
            full = Visit(client.app, content=[None])
            await full.end()
        scheduler.is_draining = True
        draining = Visit(client.app, content=[None])
        await draining.end()
    for visit, code in ((full, "full"), (draining, "draining")):
        assert (visit.status, json.loads(visit.bodies[0])["error"]["code"]) == (503, code)


@run
async def test_work_of_a_client_that_left_is_not_computed_and_nothing_of_it_stays(models):
    async with serving(models) as client:
        scheduler, batches = client.service.scheduler, []
        compute = scheduler._compute
        scheduler._compute = lambda pieces: batches.append(len(pieces)) or compute(pieces)
        tasks = len(asyncio.all_tasks())
        for body in (
            {"n": 64},
            {"n": 200, "answer": "events"},
            {"model": "curves", "answer": "stream"},
        ):
            gone = Visit(client.app, **body)
            await wait_for(lambda: scheduler.open_requests == 1)
            gone.gone.set()
            await gone.end()
            assert scheduler.open_requests == scheduler.queued_samples == 0
        before = len(batches)
        assert (await generate(client)).status_code == 200
        assert len(batches) <= before + 2
        assert len(asyncio.all_tasks()) == tasks
        assert 'status="left"' in (await client.get("/metrics")).text


@run
async def test_a_reader_that_takes_nothing_is_let_go_and_little_is_drawn_for_it(models):
    async with serving(models, patience_seconds=0.3) as client:
        slow = Visit(client.app, n=256, answer="events")
        slow.reading.clear()
        await wait_for(lambda: client.service.scheduler.open_requests == 1)
        assert (await generate(client)).status_code == 200, "others are unharmed"
        with pytest.raises(_Broken):
            await slow.end()
        assert client.service.scheduler.open_requests == 0
        text = (await client.get("/metrics")).text
        drawn = float(re.search(r'genkit_batch_samples_sum{model="ring"} (\S+)', text)[1])
        assert drawn <= 128 + 1, "of 256"
        silent = Visit(client.app, content=[None, b"{}"])
        await silent.end()
        assert silent.status == 408


# Who may come in -------------------------------------------------------------------------------------------------

SECRET, OTHER = "a" * 32, "b" * 32


@run
async def test_a_token_opens_the_door_and_each_has_a_share_of_its_own(models):
    async with serving(models, tokens=(SECRET, OTHER)) as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {SECRET}"},
        ):
            answer = await client.post("/v1/generate", json={}, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            assert (await client.get(path)).status_code == 401
        for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
        clients = []
        admit = client.service.scheduler.admit
        with patched(
            client.service.scheduler, "admit", lambda *a: clients.append(a[0]) or admit(*a)
        ):
            for token in (SECRET, OTHER):
                headers = {"authorization": f"Bearer {token}", "host": "example.org"}
                assert (
                    await client.post("/v1/generate", json={}, headers=headers)
                ).status_code == 200
        assert clients == ["token 0", "token 1"]


@run
async def test_without_tokens_no_page_of_another_site_reaches_the_server(models):
    async with serving(models) as client:
        for headers, status in (
            ({"host": "evil.example"}, 421),
            ({"host": "localhost:8000"}, 200),
            ({"host": "[::1]:8000"}, 200),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"origin": "http://localhost"}, 200),
        ):
            answer = await client.post("/v1/generate", json={}, headers=headers)
            assert answer.status_code == status, headers
    async with serving(models, hosts=("*",)) as client:
        assert (await client.get("/v1/models", headers={"host": "x"})).status_code == 200


@run
async def test_every_answer_has_the_headers_that_keep_pages_apart(models):
    async with serving(models) as client:
        for path in ("/", "/nope", "/v1/models"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", headers["x-request-id"])
        answer = await client.get("/", headers={"x-request-id": "a b"})
        assert answer.headers["x-request-id"] != "a b"


# Conditions ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(models):
    info = {**models["duet"].info, "conditional": True}
    manifest = replace(toys.duet, plugin=Echo)
    model = genkit.load(models["duet"].path, modality=manifest)
    return {"echo": replace(model, info=info)}


def test_an_uploaded_condition_is_a_private_file_until_the_request_is_answered(models, echo):
    async def test():
        Echo.paths.clear()
        async with serving(echo) as client:
            data = base64.b64encode(b"ab").decode()
            asked = {"condition": {"format": "bin", "data": data}, "seed": 3}
            answers = [
                await generate(client, **asked),
                await upload(client, "../../x.BIN", b"ab", seed=3),
            ]
            expected = npy(models["duet"].generate(1, 3, label="class2"))
            assert [answer.content for answer in answers] == expected * 2
            for wrong, detail in (
                (await upload(client, "x.bin", b"abc"), "^the uploaded file: more than 2 bytes$"),
                (
                    await upload(client, "x.txt", b"ab"),
                    r"condition.format = 'txt': .* conditions: bin",
                ),
                (await upload(client, "x", b"ab"), "condition.format = 'x'"),
                (await upload(client, "x.bin", b"ab", label="y"), "A file excludes label"),
                (await generate(client, condition={"format": "bin", "data": "%"}), "not in base64"),
                (
                    await generate(client, condition={"format": "../x", "data": ""}),
                    "condition.format: String",
                ),
                (await generate(client), "no default condition"),
            ):
                assert wrong.status_code == 422
                assert re.search(detail, wrong.json()["detail"]), wrong.json()["detail"]
        for path in Echo.paths:
            assert path.startswith(tempfile.gettempdir())
            assert os.path.basename(path) == "condition.bin"
            assert not os.path.exists(os.path.dirname(path))

    asyncio.run(test())


def upload(client, name, content, **body):
    return client.post(
        "/v1/generate", data={"request": json.dumps(body)}, files={"condition": (name, content)}
    )


def test_no_label_of_a_stranger_reaches_a_plugin_that_reads_files(echo, tmp_path):
    (tmp_path / "secret").write_bytes(b"a")

    async def test():
        Echo.paths.clear()
        async with serving(echo) as client:
            answer = await generate(client, label=str(tmp_path / "secret"))
            assert answer.status_code == 422
            assert "send it as condition" in answer.json()["detail"]
        assert Echo.paths == []

    asyncio.run(test())


@run
async def test_labels_and_prompts_of_all_lengths_are_those_of_the_model(models):
    async with serving(models) as client:
        prompts = ["a", "ab", "abc"]
        tasks = [generate(client, model="verses", label=prompt, seed=1) for prompt in prompts]
        answers = await asyncio.gather(*tasks)
        expected = [models["verses"].generate(1, 1, label=prompt).encode()[0] for prompt in prompts]
        assert [answer.content for answer in answers] == expected
        long = await generate(client, model="verses", label="a" * 10_001)
        assert long.status_code == 422


# Models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed():
    genkit.register(toys.ring)
    genkit.register(toys.duet)
    yield
    genkit.unregister("ring")
    genkit.unregister("duet")


def test_models_are_opened_when_they_are_asked_for_and_closed_when_memory_is_short(
    models, installed
):
    folders = {"a": models["ring"].path, "b": models["duet"].path, "c": models["ring"].path}
    sizes = [
        sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in folders.values()
    ]

    async def test():
        async with serving(folders) as client:
            catalogue = client.service.catalogue
            catalogue.memory = sizes[0] + max(sizes)
            assert [opened.id for opened in catalogue.open_models] == ["a"]
            assert (await client.get("/v1/models")).json()["data"][1]["id"] == "b"
            details = (await client.get("/v1/models/b")).json()
            assert details["labels"] == ["class0", "class1", "class2"]
            assert details["controls"]["properties"]["scale"]["default"] == 1.0
            assert details["noise"]["tail"] == {"shape": [2], "steps": None}
            assert [opened.id for opened in catalogue.open_models] == ["a", "b"]
            await generate(client, model="a")
            assert (await generate(client, model="c")).status_code == 200
            assert [opened.id for opened in catalogue.open_models] == ["a", "c"], (
                "b was not used for longest"
            )
            async with catalogue.using("a", client.service.scheduler.between):
                async with catalogue.using("c", client.service.scheduler.between):
                    waiting = asyncio.create_task(generate(client, model="b"))
                    await asyncio.sleep(0.05)
                    assert not waiting.done()
                assert (await waiting).status_code == 200
            assert [opened.id for opened in catalogue.open_models] == ["a", "b"]

    asyncio.run(test())


def test_a_model_that_cannot_be_opened_is_said_to_be_and_no_more(
    models, installed, tmp_path, caplog
):
    import shutil

    shutil.copytree(models["duet"].path, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x" * 100)

    async def test():
        async with serving({"ring": models["ring"], "broken": tmp_path / "broken"}) as client:
            answer = await generate(client, model="broken")
            assert answer.status_code == 503
            assert str(tmp_path) not in answer.text
            assert str(tmp_path) in caplog.text
            assert (await generate(client)).status_code == 200

    asyncio.run(test())
    with pytest.raises(genkit.errors.ModelError, match="there is no model at"):
        create_app({"x": tmp_path / "nowhere"})
    with pytest.raises(genkit.errors.ConfigError, match="MB of weights, more than the 0 MB"):
        Catalogue({"a": models["duet"].path}, memory=1)


# What is told ----------------------------------------------------------------------------------------------------


@run
async def test_health_readiness_and_figures(models):
    async with serving(models) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).status_code == 200
        await generate(client, n=3)
        await client.get("/nope/a/b")
        text = (await client.get("/metrics")).text
        for line in (
            'genkit_requests_total{method="POST",route="/v1/generate",status="200"} 1.0',
            'genkit_requests_total{method="GET",route="other",status="404"} 1.0',
            'genkit_samples_total{model="ring"} 3.0',
            'genkit_batch_requests_sum{model="ring"} 1.0',
            "genkit_queue_samples 0.0",
            'genkit_request_seconds_count{route="/v1/generate"} 1.0',
        ):
            assert line in text
        client.service.scheduler.is_draining = True
        assert (await client.get("/readyz")).status_code == 503
        refused = await generate(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (await client.get("/healthz")).status_code == 200


@run
async def test_the_document_of_the_interface_has_schemas_and_examples_that_work(models):
    async with serving(models) as client:
        document = (await client.get("/openapi.json")).json()
        operation = document["paths"]["/v1/generate"]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        reference = content["schema"]["$ref"].removeprefix("#/").split("/")
        schema = document
        for name in reference:
            schema = schema[name]
        assert schema["properties"]["seed"][
            "maximum" if "maximum" in schema["properties"]["seed"] else "exclusiveMaximum"
        ]
        for example in content["examples"].values():
            assert (await generate(client, **example["value"])).status_code == 200
        assert {"/v1/models", "/v1/models/{id}", "/v1/completions", "/metrics"} <= set(
            document["paths"]
        )
        assert "429" in operation["responses"]


# The OpenAI API --------------------------------------------------------------------------------------------------


@run
async def test_texts_are_completions(models):
    async with serving(models) as client:
        body = {
            "model": "verses",
            "prompt": ["", "ab"],
            "n": 2,
            "seed": 3,
            "user": "me",
            "logprobs": None,
        }
        answer = (await client.post("/v1/completions", json=body)).json()
        lines = [content.decode() for content in models["verses"].generate(2, 3).encode()]
        assert [choice["text"] for choice in answer["choices"][:2]] == lines
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert (answer["object"], answer["model"]) == ("text_completion", "verses")
        streamed = await client.post("/v1/completions", json={**body, "stream": True})
        *rows, done = streamed.text.strip().split("\n\n")
        assert done == "data: [DONE]"
        choices = [json.loads(row.removeprefix("data: "))["choices"][0] for row in rows]
        assert choices == answer["choices"]
        wrong = await client.post("/v1/completions", json={"temperature": 0.5})
        assert "temperature: verses has no controls" in wrong.json()["error"]["message"]
        other = await client.post("/v1/completions", json={"model": "ring"})
        assert (other.status_code, other.json()["detail"]) == (
            404,
            "model 'ring' does not fit here; these do: verses",
        )


@run
async def test_other_media_are_generations_and_say_a_text_where_texts_are_conditions(models):
    spoken = replace(verses, media_type="audio/x-toy", formats=("npy",))
    seen = replace(toys.duet, media_type="image/x-toy")
    plain = replace(models["verses"], modality=spoken)
    clothes = {"seen": replace(models["duet"], modality=seen), "spoken": plain}
    async with serving(clothes) as client:
        body = {"model": "seen", "prompt": "class1", "n": 2, "seed": 3, "size": "256x256"}
        answer = (await client.post("/v1/images/generations", json=body)).json()
        files = [base64.b64decode(row["b64_json"]) for row in answer["data"]]
        assert files == npy(models["duet"].generate(2, 3, label="class1"))
        body |= {"response_format": "url", "n": 1}
        (row,) = (await client.post("/v1/images/generations", json=body)).json()["data"]
        assert row["url"] == "data:image/x-toy;base64," + base64.b64encode(files[0]).decode()
        said = await client.post("/v1/audio/speech", json={"input": "ab", "seed": 1, "voice": "x"})
        assert said.headers["content-type"] == "audio/x-toy"
        assert said.content == models["verses"].generate(1, 1, label="ab").encode()[0]
        silent = await client.post("/v1/image/speech", json={"input": "ab"})
        assert (silent.status_code, silent.json()["detail"]) == (
            404,
            "model 'seen' does not fit here: it takes no texts",
        )
        assert (await client.post("/v1/completions", json={})).status_code == 404
        bad = await client.post("/v1/images/generations", json={"output_format": "../x"})
        assert bad.status_code == 422
