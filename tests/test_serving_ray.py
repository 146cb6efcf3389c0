"""The deployment on Ray Serve, where Ray is installed: the same answers, and a replica that is killed loses none."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import genkit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_replica_that_is_killed_under_load_is_replaced_and_no_answer_is_wrong(tmp_path):
    ray = pytest.importorskip("ray")
    from ray import serve

    from genkit.serving.deployment import application

    model = genkit.train("image", out=tmp_path / "run", items=64, threads=1, options={"size": 16})
    expected = [content for chunk in model.stream(100) for content in chunk.encode()]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        serve.start(http_options={"port": 8455})
        settings = {"models": {"model": str(model.path)}, "replicas": "2", "log": "false"}
        serve.run(application(settings), name="genkit")
        answers, end = [], time.monotonic() + 12

        def ask(number):
            with genkit.Client("http://localhost:8455") as client:
                while time.monotonic() < end:
                    number = (number + 7) % 100
                    content = client.generate("model", 1, start=number).encode()[0]
                    answers.append(content == expected[number])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        os.kill(replicas()[0], signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert len(answers) > 100
        assert all(answers)
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas():
    """The numbers of the processes of replicas."""
    lines = ((path.parent.name, path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    return [int(number) for number, path in lines if "ServeReplica:genkit" in path.read_text()]
