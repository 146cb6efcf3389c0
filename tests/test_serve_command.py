"""`genkit serve`: models by name, tokens, limits, what is refused before anything is served; and, slowly, its end."""

import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
import toys

import genkit
from genkit.cli.serve import megabytes, named_models, read_tokens
from genkit.errors import ConfigError
from genkit.serving import server
from genkit.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return genkit.train(toys.ring, out=folder / "points", items=256, threads=1)


def test_models_have_the_names_of_their_folders_or_those_that_are_given(model, tmp_path):
    run = model.path.parent
    assert named_models([str(run)]) == {"points": str(run)}
    assert named_models([str(model.path)]) == {"points": str(model.path)}
    assert named_models([f"a={run}", str(run), "image:small"]) == {
        "a": str(run),
        "points": str(run),
        "image:small": "image:small",
    }
    with pytest.raises(ConfigError, match="there is a model 'points' already"):
        named_models([str(run), str(model.path)])


def test_sizes_are_megabytes():
    assert [megabytes(text) for text in (None, "500MB", "4GB", "1.5 gb")] == [None, 500, 4000, 1500]
    for text in ("4", "4TB", "0GB", "-1GB", "GB"):
        with pytest.raises(ConfigError, match="500MB or 4GB"):
            megabytes(text)


def test_tokens_are_lines_that_nobody_guesses(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# those of friends\n{'a' * 16}\n\n {'b' * 20} \n")
    assert read_tokens(None) == ()
    assert read_tokens(file) == ("a" * 16, "b" * 20)
    for content in ("", "# none\n", "short\n", "é" * 16):
        file.write_text(content)
        with pytest.raises(ConfigError, match="at least 16 ASCII characters"):
            read_tokens(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(tmp_path / "nothing")


REFUSED = {
    "an open door": (["--host", "0.0.0.0"], "reachable from other machines: .* Give --token-file"),
    "an unknown setting": (["--set", "max_sample=3"], "max_sample: no such setting. Did you mean 'max_samples'"),
    "a wrong setting": (["--set", "max_samples=0"], "max_samples"),
    "too little memory": (["--memory", "0.5MB"], "--memory 0.5MB"),
}  # fmt: skip


def test_what_cannot_be_served_is_one_sentence(model, command, tmp_path):
    for name, (words, message) in REFUSED.items():
        result = command("serve", model.path, *words)
        assert (result.returncode, result.stdout) == (2, ""), name
        assert re.search(message, result.stderr), result.stderr
    assert command("serve", tmp_path / "nothing").returncode == 2
    settings = ServeSettings(models={"a": model}, tokens=("a" * 16,))
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ConfigError, match="cannot be used: Address already in use"),
    ):
        server.serve(settings, port=other.getsockname()[1])
    with pytest.raises(ConfigError, match=r"--host 203\.0\.113\.1 --port 1 cannot"):
        server.serve(settings, "203.0.113.1", 1)


def test_loopback_needs_no_tokens():
    assert [
        server._is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")
    ] == [True] * 4
    assert [server._is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [
        False
    ] * 4


def test_a_turn_of_the_loop_serves_few_sockets_and_comes_to_all():
    pairs = [socket.socketpair() for _ in range(3 * server.AT_ONCE)]
    with server._FewAtOnce() as selector:
        for number, (end, other) in enumerate(pairs):
            selector.register(end, selectors.EVENT_READ, number)
            other.send(b"x")
        served = []
        while len(set(served)) < len(pairs) - 1:
            events = selector.select(0)
            assert 0 < len(events) <= server.AT_ONCE
            if not served:
                closed = next(n for n in range(len(pairs)) if n not in [k.data for k, _ in events])
                selector.unregister(pairs[closed][0])  # it was ready, and its turn had not come
            served += [key.data for key, _ in events]
            assert len(served) < 9 * len(pairs)
    assert set(served) == set(range(len(pairs))) - {closed}
    for end in (end for pair in pairs for end in pair):
        end.close()


# Processes ---------------------------------------------------------------------------------------------------------

SERVE = """
import sys, torch, toys, genkit
torch.set_num_threads(1)
genkit.register(toys.ring)
from genkit.cli import main
main(["serve", f"points={sys.argv[1]}", "--port", "0", *sys.argv[2:]])
"""


class Process:
    """A server in a process of its own; a context."""

    def __init__(self, model, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVE, str(model.path), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self):
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self, number):
        """Send a signal; the exit code, and what was written to standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def ask(self, body, path="/v1/generate"):
        """(status, content); (0, b"") where the connection is refused."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except urllib.error.URLError:
            return 0, b""


@pytest.mark.slow
def test_sigterm_under_load_answers_all_that_was_accepted_and_ends_well(model):
    expected = {seed: model.generate(1, seed).encode()[0] for seed in range(2000)}
    for _ in range(5):
        with Process(model) as served:
            answers, is_over = [], threading.Event()

            def client(first, served=served, answers=answers, is_over=is_over):
                for seed in range(first, first + 100):
                    status, content = served.ask({"seed": seed})
                    answers.append((seed, status, content))
                    if status != 200 or is_over.is_set():
                        return

            threads = [threading.Thread(target=client, args=(100 * n,)) for n in range(16)]
            for thread in threads:
                thread.start()
            while len(answers) < 40:
                pass
            code, errors = served.end(signal.SIGTERM)
            is_over.set()
            for thread in threads:
                thread.join()
        assert code == 0
        assert "Traceback" not in errors
        assert {status for _, status, _ in answers} <= {0, 200, 503}
        for seed, status, content in answers:
            if status == 200:
                assert content == expected[seed]


@pytest.mark.slow
def test_ctrl_c_ends_it_with_130_and_a_second_signal_at_once(model):
    with Process(model) as served:
        assert served.ask({})[0] == 200
        code, errors = served.end(signal.SIGINT)
    assert (code, "genkit: stopped" in errors) == (130, True)
    with Process(model, "--set", "patience_seconds=50") as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as silent:  # a request that never ends
            lines = [
                "POST /v1/generate HTTP/1.1",
                "host: localhost",
                "content-type: application/json",
            ]
            silent.sendall("\r\n".join([*lines, "content-length: 9", "", "{"]).encode())
            assert served.ask({})[0] == 200, "so the other has arrived, too"
            served.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                served.process.wait(3)
            code, _ = served.end(signal.SIGTERM)
    assert code == 0


class Browser:
    """Chromium without a window, told what to do by the DevTools protocol over a pipe; a context."""

    def __init__(self, url, width, folder):
        self.number, self.session, self.complaints = 0, None, []
        (theirs_in, self.to), (self.back, theirs_out) = os.pipe(), os.pipe()

        def arrange():  # commands come in by 3, answers go out by 4
            for end, number in ((theirs_in, 23), (theirs_out, 24), (23, 3), (24, 4)):
                os.dup2(end, number)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}"],
            close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=arrange,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.file = os.fdopen(self.back, "rb")
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.call(f"{part}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        self.file.close()

    def call(self, method, **parameters):
        """The result of a command; complaints of the page that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(b"".join(iter(lambda: self.file.read(1), b"\0")))
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(answer["params"])
            if answer.get("id") == self.number:
                return answer["result"]

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression)["result"].get("value")

    def wait_for(self, expression):
        for _ in range(400):
            if self.value(expression):
                return
            time.sleep(0.05)
        raise AssertionError(
            f"it did not happen: {expression}; {self.value('document.body.innerText')}"
        )

    def press(self, key, times=1):
        codes = {"Tab": 9, "ArrowRight": 39, " ": 32}
        for _ in range(times):
            key_of = {
                "key": key,
                "code": key if key != " " else "Space",
                "windowsVirtualKeyCode": codes[key],
            }
            text = {"text": " "} if key == " " else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **key_of, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **key_of)


STATUS = "document.querySelector('#status').textContent"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["points", "image:classes", "audio", "video", "text"])
def test_the_page_works_by_keyboard_alone_and_without_complaints(model, kind, width, tmp_path):
    served_model = model if kind == "points" else genkit.load(kind)
    with Process(served_model) as served, Browser(served.url, width, tmp_path) as browser:
        browser.wait_for(f"{STATUS}.startsWith('8 samples of seed 0 in')")
        assert browser.value("document.querySelectorAll('figure').length") == 8
        focus = "document.activeElement.id"
        for _ in range(20):
            browser.press("Tab")
            if browser.value(focus) == "seed-slider":
                break
        browser.press("ArrowRight", 3)
        browser.wait_for(f"{STATUS}.startsWith('8 samples of seed 3 in')")
        while browser.value(focus) != "walking":
            if browser.value("document.activeElement.parentElement.id") == "more":
                browser.value("document.querySelector('#more').open") or browser.press(" ")
            browser.press("Tab")
        browser.press(" ")
        browser.wait_for(
            "document.querySelector('figcaption').textContent.startsWith('0 → 1: 50 %')"
        )
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        assert "samples = client.samples" in browser.value(
            "document.querySelector('#python').textContent"
        )
        assert browser.complaints == []
