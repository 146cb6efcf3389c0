"""Samples from a server are those of a model here, to look at, slice and save; a busy server is asked again."""

import asyncio
import json
import socket
import threading

import httpx2
import pytest
import torch
import toys
import uvicorn
from toy_curves import curves

import genkit
from genkit.errors import ConfigError
from genkit.serving import RequestRefused, ServerError, clients
from genkit.serving.app import create_app
from genkit.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        manifest.id: genkit.train(manifest, out=folder / manifest.id, items=256, threads=1)
        for manifest in (toys.duet, toys.language, curves)
    }


@pytest.fixture(scope="module")
def url(models):
    """The address of a server in a thread of this process."""
    app = create_app(ServeSettings(models=models, tokens=("t" * 16,)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(url):
    with genkit.Client(url, token="t" * 16) as client:
        yield client


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_samples_are_those_of_the_model_as_tensors_and_as_files(models, client, tmp_path):
    local = models["duet"].generate(70, 3, 60, label="class1", controls={"scale": 0.5})
    remote = client.generate("duet", 70, 3, 60, label="class1", controls={"scale": 0.5})
    assert torch.equal(remote.x, local.x)
    assert torch.equal(remote.sample.condition, local.sample.condition)
    assert remote.seeds == local.seeds
    assert remote.encode() == local.encode("npy")
    local.save(tmp_path / "local")
    assert remote.save(f"{tmp_path}/remote/")[-1] == tmp_path / "remote" / "samples.json"
    here, there = tree(tmp_path / "local"), tree(tmp_path / "remote")
    listed = [json.loads(files.pop("samples.json")) for files in (here, there)]
    assert here == there
    assert listed[1]["model"].pop("path") == client.url
    del listed[0]["model"]["path"]
    assert listed[0] == listed[1]
    with pytest.raises(ConfigError, match=r"holds 000060\.npy already"):
        remote.save(tmp_path / "remote")


def test_slices_are_samples_and_are_asked_for_again_in_other_forms(models, client, tmp_path):
    local, remote = models["duet"].generate(9, 1), client.generate("duet", 9, 1)
    assert torch.equal(remote[::4].x, local[::4].x)
    assert remote[::4].seeds == [(1, 0), (1, 4), (1, 8)]
    assert [len(one) for one in remote] == [1] * 9
    remote[2:5].save(tmp_path / "some.txt")
    assert (tmp_path / "some.txt").read_bytes() == local[2:5].save(tmp_path / "local.txt")[
        0
    ].read_bytes()
    curves = client.generate("curves", 2, format="csv")
    assert curves.encode("raw") == models["curves"].generate(2).encode("raw")
    assert curves.encode() == models["curves"].generate(2).encode("csv")
    assert repr(remote) == f"<9 samples of duet from {client.url}, seed 1>"


def test_interpolations_the_best_of_several_and_any_indices(models, client):
    between = client.interpolate("duet", [3, 170, 5], seed=2, steps=40)
    local = models["duet"].interpolate([3, 170, 5], 2, steps=40)
    assert between.encode() == local.encode()
    assert torch.equal(between[30:].x, local[30:].x)
    assert between.seeds == local.seeds
    best = client.generate("duet", indices=[9, 2], seed=4, best_of=3)
    assert torch.equal(best.x, models["duet"].generate(seed=4, indices=[9, 2], best_of=3).x)


def test_many_samples_come_a_few_at_a_time_and_long_ones_part_by_part(models, client, tmp_path):
    chunks = list(client.stream("duet", 100, start=5, seed=1))
    assert [len(chunk) for chunk in chunks] == [64, 36]
    whole = models["duet"].generate(100, 1, 5)
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), whole.x)
    controls = {"steps": 200}
    path = client.download(tmp_path / "long.raw", "curves", seed=3, index=2, controls=controls)
    assert path.read_bytes() == models["curves"].generate(1, 3, 2, controls=controls).encode()[0]
    with pytest.raises(RequestRefused, match="one length"):
        client.download(tmp_path / "x.npy", "duet")
    assert [file.name for file in tmp_path.iterdir()] == ["long.raw"]


def test_what_is_awaited_is_the_same(models, url, tmp_path):
    async def ask():
        async with genkit.AsyncClient(url, token="t" * 16) as client:
            assert await client.models() == ["duet", "language", "curves"]
            assert (await client.describe("duet"))["labels"] == ["class0", "class1", "class2"]
            samples = await client.generate("duet", 70, 3)
            chunks = [chunk async for chunk in client.stream("duet", 70, seed=3)]
            between = await client.interpolate("duet", [0, 1], steps=3)
            await client.download(tmp_path / "a.raw", "curves")
            return samples, chunks, between

    samples, chunks, between = asyncio.run(ask())
    local = models["duet"].generate(70, 3)
    assert samples.encode() == local.encode()
    assert torch.equal(samples.x, local.x)
    assert [row for chunk in chunks for row in chunk.encode()] == local.encode()
    assert between.encode() == models["duet"].interpolate([0, 1], steps=3).encode()
    assert (tmp_path / "a.raw").read_bytes() == models["curves"].generate(1).encode()[0]
    samples.client.close()


def test_what_the_server_refuses_is_an_error_that_says_why(client, url, tmp_path, monkeypatch):
    assert client.models() == ["duet", "language", "curves"]
    with pytest.raises(RequestRefused, match="Did you mean 'class2'") as refusal:
        client.generate("duet", label="class9")
    assert (refusal.value.status, refusal.value.exit_code) == (422, 2)
    with pytest.raises(RequestRefused, match="no such model here"):
        client.describe("nobody")
    (tmp_path / "c.bin").write_bytes(b"x")
    with pytest.raises(RequestRefused, match=r"condition\.format = 'bin'"):
        client.generate("duet", condition=tmp_path / "c.bin")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        client.generate("duet", condition=tmp_path / "nothing.bin")
    with pytest.raises(ConfigError, match="at least one sample"):
        client.generate("duet", 0)
    with pytest.raises(RequestRefused, match="A token is needed"), genkit.Client(url) as stranger:
        stranger.models()
    monkeypatch.setenv("GENKIT_TOKEN", "t" * 16)
    with genkit.Client(url) as friend:
        assert len(friend.models()) == 3


PLAIN = {"content-type": "text/plain"}  # what stands before the server has lost it


def test_a_busy_server_is_asked_again_when_it_says_so(monkeypatch):
    waits, hint = [], {"retry-after": "7"}
    answers = [(503, hint), (429, {}), (502, {}), (500, PLAIN), None, (200, {})]
    monkeypatch.setattr(clients.time, "sleep", waits.append)
    monkeypatch.setattr(clients.random, "uniform", lambda low, high: low)

    def answer(request):
        following = answers.pop(0)
        if following is None:
            raise httpx2.ConnectError("nobody there")
        status, headers = following
        kind = {} if status == 502 else {"content-type": "application/problem+json"}
        content = b'{"data": [], "detail": "busy"}'
        return httpx2.Response(status, headers={**kind, **headers}, content=content)

    with genkit.Client("http://x", transport=httpx2.MockTransport(answer)) as client:
        assert client.models() == []
    assert waits == [7, 0.5, 1, 2, 4]
    for last, text in (((503, {}), "busy"), (None, "http://x cannot be reached: nobody there")):
        answers[:] = [last] * 3
        transport = httpx2.MockTransport(answer)
        with (
            genkit.Client("http://x", retries=2, transport=transport) as client,
            pytest.raises(ServerError, match=text),
        ):
            client.models()
    answers[:] = [(500, {})]
    with (
        genkit.Client("http://x", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(ServerError, match="busy"),
    ):
        client.models()
    assert not answers, "it is not asked again"


def test_a_client_costs_no_torch(python):
    code = (
        "import sys, genkit; genkit.Client('http://localhost:1'); assert 'torch' not in sys.modules"
    )
    python(code, "-W", "error")
