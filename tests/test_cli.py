"""The command line in real processes: the two main paths, exit codes, one-sentence errors, what goes where."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent


def genkit(*words, cwd=None, timeout=120):
    command = [sys.executable, "-W", "error", "-m", "genkit", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
        env=environment,
    )


PICTURE = b"P5 2 2 255\n\x00\x01\x02\x03"

SMALL = ["options.features=4", "options.size=16", "recipe.batch_size=16", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    done = genkit(
        "train", "image", "--items", 320, "--out", out, "options.conditional=true", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "model")
    return out


def test_train_leaves_the_files_that_the_interface_promises(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "samples", "checkpoints", "latest", "model"} <= names
    assert {path.name for path in (trained / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["items"] == 320
    assert {"seconds", "stage", "critic.loss", "generator.loss"} <= rows[-1].keys()


def test_generate_writes_files_or_a_grid_and_prints_where(trained, tmp_path):
    done = genkit("generate", trained, "-n", 3, "--out", tmp_path / "s", "--label", "Bag")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "s"))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "000000.png", "000001.png", "000002.png", "samples.json",
    ]  # fmt: skip
    assert genkit("generate", trained, "-n", 2, "--out", f"{tmp_path}/v1.0/").returncode == 0
    assert (tmp_path / "v1.0" / "samples.json").exists()
    assert (
        genkit("generate", trained, "-n", 2, "--best-of", 3, "--out", tmp_path / "best").returncode
        == 0
    )
    assert json.loads((tmp_path / "best" / "samples.json").read_text())["best_of"] == 3
    done = genkit("generate", trained, "-n", 20, "--out", tmp_path / "grid.png", "--json")
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "grid.png")]
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"


def test_a_walk_is_a_strip_an_animation_or_files(trained, tmp_path):
    words = ["generate", trained, "--interpolate", "3,17,5", "--steps", 4]
    done = genkit(*words, "--out", tmp_path / "strip.png", "truncation=0.5")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "strip.png"))
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (4 * 18 + 2, 3 * 18 + 2)
    assert genkit(*words, "--out", tmp_path / "interpolation.webp", "fps=25").returncode == 0
    with Image.open(tmp_path / "interpolation.webp") as film:
        assert (film.n_frames, film.info["loop"]) == (9, 0)
    assert genkit(*words, "--out", tmp_path / "files").returncode == 0
    rows = json.loads((tmp_path / "files" / "samples.json").read_text())["samples"]
    assert (rows[5]["start"], rows[5]["end"], rows[5]["share"]) == (17, 5, 0.25)


def test_info_tells_of_a_run_and_of_a_model(trained):
    assert "dcgan-small" in genkit("info", trained).stdout
    assert json.loads(genkit("info", trained / "model", "--json").stdout)["items"] == 320


def test_print_config_is_a_config_file(tmp_path):
    done = genkit("train", "image", "--print-config", "--seed", 4, "recipe.loss=wasserstein")
    (tmp_path / "c.yaml").write_text(done.stdout)
    again = genkit("train", "image", "--print-config", "--config", tmp_path / "c.yaml")
    assert yaml.safe_load(done.stdout) == yaml.safe_load(again.stdout)
    assert yaml.safe_load(done.stdout)["recipe"]["loss"] == "wasserstein"
    assert yaml.safe_load(done.stdout)["run"]["seed"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "imagee"], "Did you mean 'image'"),
        (["train", "image", "--preset", "dcgann"], "Did you mean 'dcgan'"),
        (["train", "image", "options.sise=32"], "Did you mean 'size'"),
        (["train", "image", "options.size=30"], "multiple of 4"),
        (["train", "image", "recipe.critic.learning_rat=1"], "Did you mean 'learning_rate'"),
        (["train", "image", "recipe.loss=hing"], "Did you mean 'hinge'"),
        (["train", "image", "recipe.penalties.r3.weight=1"], "recipe.penalties"),
        (["train", "image", "nonsense"], "path=value"),
        (
            ["train", "image", "--data", "no/such/folder", "--out", "OUT"],
            "there is no such file or folder",
        ),
        (["train", "image", "--data", "builtin:fashio", "--out", "OUT"], "Did you mean 'fashion'"),
        (["train", "image", "--device", "cuda:77", "--out", "OUT"], "does not exist here"),
        (["train", "image", "--resume", "--overwrite"], "exclude each other"),
        (["train", "image", "--items", "5", "--minutes", "5"], "exclude each other"),
        (["train", "image", "--config", "no.yaml"], "no.yaml"),
        (["train", "image", "--items", "x"], "items"),
        (["train", "image", "--items", "-5"], "run.items"),
        (
            ["data", "check", "no/such/folder", "--modality", "image"],
            "there is no such file or folder",
        ),
        (["data", "check", ".", "--modality", "image", "options.sise=32"], "Did you mean 'size'"),
        (["data", "check", ".", "--modality", "imagee"], "Did you mean 'image'"),
        (
            ["data", "check", "torchvision:FashionMNIST", "--modality", "image"],
            "download them once",
        ),
        (["generate", "no/model"], "does not exist"),
        (["generate", "RUN", "--out", "x.mp4"], ".png"),
        (["generate", "RUN", "--out", "-"], "not text"),
        (["generate", "RUN", "-n", "0"], "at least one"),
        (["generate", "RUN", "--label", "Bagg"], "Did you mean 'Bag'"),
        (["generate", "RUN", "truncatio=1"], "Did you mean 'truncation'"),
        (["generate", "RUN", "truncation=0"], "truncation"),
        (["generate", "RUN", "--steps", "3"], "--interpolate"),
        (["generate", "RUN", "--interpolate", "3,x"], "commas"),
        (["generate", "RUN", "--interpolate", "3"], "at least two indices"),
        (["generate", "RUN", "--interpolate", "3,-5"], "at least two indices, of at least 0"),
        (["generate", "RUN", "--interpolate", "3,5", "--steps", "0"], "at least one step"),
        (["generate", "RUN", "--interpolate", "3,5", "-n", "4"], "excludes"),
        (["generate", "RUN", "--interpolate", "3,5", "--best-of", "4"], "excludes"),
        (["generate", "RUN", "--best-of", "0"], "at least one candidate"),
        (["info", "."], "neither a model folder"),
        (["plugins", "show", "vidio"], "no installed plugin"),
        (["trian"], "train"),
    ],
)
def test_the_users_mistakes_are_one_sentence_and_exit_code_2(trained, tmp_path, words, said):
    words = [
        str(trained) if word == "RUN" else str(tmp_path / "o") if word == "OUT" else word
        for word in words
    ]
    done = genkit(*words, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if done.stderr.startswith("genkit:"):
        assert done.stderr.count("\n") == 1


@pytest.fixture
def half_good(tmp_path):
    for number in range(25):
        (tmp_path / f"bad{number:02d}.png").write_text("no picture")
    for number in range(3):
        grid = tmp_path / f"good{number}.png"
        grid.write_bytes(PICTURE)
    return tmp_path


def test_data_check_tells_what_can_be_used(half_good):
    check = ["data", "check", half_good, "--modality", "image"]
    done = genkit(*check, "options.size=16")
    assert done.returncode == 0, done.stderr
    assert "3 of 28 items" in done.stdout
    assert "1 x 16 x 16" in done.stdout
    assert done.stdout.count("cannot be used: bad") == 20
    assert "and 5 more" in done.stdout
    report = json.loads(genkit(*check, "--json").stdout)
    assert report["items"] == 3
    assert len(report["skipped"]) == 25
    assert report["skipped"][0]["name"] == "bad00.png"


def test_strict_is_exit_code_2_after_the_report_and_before_a_run(half_good):
    check = ["data", "check", half_good, "--modality", "image"]
    done = genkit(*check, "--strict", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["items"] == 3
    assert done.stderr.startswith("genkit: 25 of 28 items")
    done = genkit(
        "train", "image", "--data", half_good, "--strict", "--out", half_good / "run", *SMALL
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("genkit: 25 of 28 items")
    for path in half_good.glob("good*"):
        path.unlink()
    for words in (check, ["train", "image", "--data", half_good, "--out", half_good / "run"]):
        done = genkit(*words)
        assert done.returncode == 2
        assert "genkit: none of the 25 items" in done.stderr
        assert done.stderr.count("\n") == 1


def test_data_check_takes_any_modality_and_asks_which_if_there_are_several(capsys):
    from toys import ring

    from genkit import register, unregister
    from genkit.cli import main

    register(ring)
    try:
        with pytest.raises(SystemExit) as end:
            main(["data", "check", "anything", "--modality", "ring", "--json"])
        assert end.value.code == 0
        assert json.loads(capsys.readouterr().out)["shape"] == [2]
        with pytest.raises(SystemExit) as end:
            main(["data", "check", "anything"])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert "--modality must say what the data are; installed: " in said
        assert {"image", "ring"} <= set(said.rstrip().partition("installed: ")[2].split(", "))
    finally:
        unregister("ring")


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "genkit",
        "train",
        "image",
        "--items",
        "1000000",
        "--out",
        str(out),
        *SMALL,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything is saved" in errors
    assert "Traceback" not in errors
    done = genkit("info", out, "--json")
    items = json.loads(done.stdout)["items"]
    assert items > 0
    done = genkit("train", "image", "--resume", "--out", out, "--items", items + 160)
    assert done.returncode == 0, done.stderr
    assert f"resumed at {items:,} items" in done.stderr


def test_version_and_help():
    assert genkit("--version").stdout.startswith("genkit-gan ")
    for words in (
        [],
        ["train"],
        ["generate"],
        ["info"],
        ["plugins"],
        ["plugins", "list"],
        ["data", "check"],
    ):
        done = genkit(*words, "--help")
        assert (done.returncode, "Usage:" in done.stdout) == (0, True)


def test_a_reader_that_leaves_early_is_no_error():
    shell = f"{sys.executable} -m genkit train image --print-config | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_a_terminal_gets_a_bar_and_nothing_else_does(tmp_path):
    import pty

    command = [
        sys.executable,
        "-m",
        "genkit",
        "train",
        "image",
        "--items",
        "320",
        "--out",
        str(tmp_path / "run"),
        *SMALL,
    ]
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the other end has closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout.read().strip() == str(tmp_path / "run" / "model")
    os.close(master)
    assert process.returncode == 0, shown.decode()
    assert b"items/s" in shown
    assert "320/320" in shown.decode()
    assert b"\x1b[" in shown  # it moves the cursor: a bar


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX")
def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(tmp_path):
    out = tmp_path / "run"
    assert genkit("train", "image", "--items", 160, "--out", out, *SMALL).returncode == 0
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    words = f"{sys.executable} -m genkit train image --resume --items 320 --out {out} -q"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; {words}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("genkit: cannot write")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before
    assert genkit("train", "image", "--resume", "--items", 320, "--out", out).returncode == 0
