"""The command line: the two main paths, exit codes, one-sentence errors, what goes where.

What a process alone can show, such as signals, pipes and terminals, is asked of real ones (`genkit`); the rest is run
within this process (`command`), which spares each test the imports.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from toys import ring
from typer.core import TyperGroup

from genkit import load
from genkit.cli import main
from genkit.cli.progress import _done
from genkit.engine import training
from genkit.engine.clock import Progress
from genkit.errors import Interrupted
from genkit.kit.program import Command, _Terminated, group, run


@pytest.fixture(scope="module")
def genkit(process):
    """The command line in a process of its own, where a warning is an error."""
    return lambda *words, **arguments: process("-W", "error", "-m", "genkit", *words, **arguments)


PICTURE = b"P5 2 2 255\n\x00\x01\x02\x03"

SMALL = ["options.features=4", "options.size=16", "recipe.batch_size=16", "--threads", "1"]
SMALL += ["--plan", "fp32", "--preset", "compact"]  # nothing is measured beforehand, or loaded


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command):
    out = tmp_path_factory.mktemp("cli") / "run"
    done = command(
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


def test_generate_writes_files_or_a_grid_and_prints_where(trained, tmp_path, genkit, command):
    done = genkit("generate", trained, "-n", 3, "--out", tmp_path / "s", "--label", "Bag")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "s"))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "000000.png", "000001.png", "000002.png", "samples.json",
    ]  # fmt: skip
    assert command("generate", trained, "-n", 2, "--out", f"{tmp_path}/v1.0/").returncode == 0
    assert (tmp_path / "v1.0" / "samples.json").exists()
    assert (
        command(
            "generate", trained, "-n", 2, "--best-of", 3, "--choose", "sample", "--out", tmp_path / "best"
        ).returncode
        == 0
    )  # fmt: skip
    told = json.loads((tmp_path / "best" / "samples.json").read_text())
    assert (told["best_of"], told["choose"]) == (3, "sample")
    done = command("generate", trained, "-n", 20, "--out", tmp_path / "grid.png", "--json")
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "grid.png")]
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"


def test_many_samples_are_packed_shared_out_and_resumed(trained, tmp_path, command):
    words = ["generate", trained, "-n", 200, "--per-tar", 64]
    done = command(*words, "--out", tmp_path / "one")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "one"))
    done = command(*words, "--out", tmp_path / "two", "--shard", "2/2")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "two"))
    assert not (tmp_path / "two" / "samples.json").exists()
    for path in (tmp_path / "two").iterdir():
        os.utime(path, (1, 1))
    done = command(*words, "--out", tmp_path / "two", "--resume", "--json")
    assert json.loads(done.stdout)["files"] == [
        str(path) for path in sorted((tmp_path / "two").iterdir())
    ]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert (tmp_path / "two" / "000001.tar").stat().st_mtime == 1
    done = command(*words, "--out", tmp_path / "two", "--resume", "--seed", 1)
    assert_mistake(done, "was begun with seed = 0, and this has seed = 1")


def test_an_interpolation_is_a_strip_an_animation_or_files(trained, tmp_path, command):
    words = ["generate", trained, "--interpolate", "3,17,5", "--steps", 4]
    done = command(*words, "--out", tmp_path / "strip.png", "truncation=0.5")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "strip.png"))
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (4 * 18 + 2, 3 * 18 + 2)
    assert command(*words, "--out", tmp_path / "interpolation.webp", "fps=25").returncode == 0
    with Image.open(tmp_path / "interpolation.webp") as film:
        assert (film.n_frames, film.info["loop"]) == (9, 0)
    assert command(*words, "--out", tmp_path / "files").returncode == 0
    rows = json.loads((tmp_path / "files" / "samples.json").read_text())["samples"]
    assert (rows[5]["start"], rows[5]["end"], rows[5]["share"]) == (17, 5, 0.25)


def test_info_tells_of_a_run_and_of_a_model(trained, command):
    assert "compact" in command("info", trained).stdout
    assert json.loads(command("info", trained / "model", "--json").stdout)["items"] == 320


def test_print_config_is_a_config_file(tmp_path, command):
    done = command("train", "image", "--print-config", "--seed", 4, "recipe.loss=wasserstein")
    (tmp_path / "c.yaml").write_text(done.stdout)
    again = command("train", "image", "--print-config", "--config", tmp_path / "c.yaml")
    assert yaml.safe_load(done.stdout) == yaml.safe_load(again.stdout)
    assert yaml.safe_load(done.stdout)["recipe"]["loss"] == "wasserstein"
    assert yaml.safe_load(done.stdout)["run"]["seed"] == 4


def test_print_config_begins_with_the_settings_of_the_model_that_the_run_starts_from(
    trained, command
):
    done = command("train", "image", "--init", trained, "--print-config", "recipe.batch_size=8")
    config = yaml.safe_load(done.stdout)
    assert config["preset"] == "compact"
    assert (
        config["options"]["size"]
        == json.loads(command("info", trained, "--json").stdout)["options"]["size"]
    )
    assert config["recipe"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "imagee"], "Did you mean 'image'"),
        (["train", "image", "recipe.estimator.real=0.5"], "Allowed: kind, reuse_fakes."),
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
        (["generate", "./no/model"], "does not exist"),
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
        (["generate", "RUN", "--shard", "3/2"], "K from 1 to N"),
        (["generate", "RUN", "--shard", "auto"], "neither torchrun"),
        (["generate", "RUN", "--shard", "1/2", "--out", "x.png"], "in a folder"),
        (["generate", "RUN", "--resume", "--interpolate", "3,5"], "in a folder"),
        (["generate", "RUN", "--per-tar", "0"], "at least one sample"),
        (["generate", "RUN", "--ray", "2", "--shard", "1/2"], "exclude each other"),
        (["generate", "RUN", "--ray", "0"], "at least one"),
        (["info", "."], "neither a model folder"),
        (["plugins", "show", "vidio"], "no installed plugin"),
        (["trian"], "train"),
    ],
)
def test_the_users_mistakes_are_one_sentence_and_exit_code_2(
    trained, tmp_path, command, words, said
):
    words = [
        str(trained) if word == "RUN" else str(tmp_path / "o") if word == "OUT" else word
        for word in words
    ]
    assert_mistake(command(*words, cwd=tmp_path), said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "image", "options.sise=32"], "Did you mean 'size'"),
        (["train", "image", "--data", "no/such/folder"], "there is no such file or folder"),
        (["trian"], "train"),
    ],
)
def test_mistakes_end_a_process_in_the_same_way(tmp_path, genkit, words, said):
    """Before torch is imported and after it, and where a word is no command."""
    assert_mistake(genkit(*words, cwd=tmp_path), said)


def assert_mistake(done, said):
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


def test_data_check_tells_what_can_be_used(half_good, command):
    check = ["data", "check", half_good, "--modality", "image"]
    done = command(*check, "options.size=16")
    assert done.returncode == 0, done.stderr
    assert "3 of 28 items" in done.stdout
    assert "1 x 16 x 16" in done.stdout
    assert done.stdout.count("cannot be used: bad") == 20
    assert "and 5 more" in done.stdout
    report = json.loads(command(*check, "--json").stdout)
    assert report["items"] == 3
    assert len(report["skipped"]) == 25
    assert report["skipped"][0]["name"] == "bad00.png"


def test_strict_is_exit_code_2_after_the_report_and_before_a_run(half_good, command):
    check = ["data", "check", half_good, "--modality", "image"]
    done = command(*check, "--strict", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["items"] == 3
    assert done.stderr.startswith("genkit: 25 of 28 items")
    done = command(
        "train", "image", "--data", half_good, "--strict", "--out", half_good / "run", *SMALL
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("genkit: 25 of 28 items")
    for path in half_good.glob("good*"):
        path.unlink()
    for words in (check, ["train", "image", "--data", half_good, "--out", half_good / "run"]):
        done = command(*words)
        assert done.returncode == 2
        assert "genkit: none of the 25 items" in done.stderr
        assert done.stderr.count("\n") == 1


def test_data_check_takes_any_modality_and_asks_which_if_there_are_several(command):
    from genkit import register, unregister

    register(ring)
    try:
        done = command("data", "check", "anything", "--modality", "ring", "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["shape"] == [2]
        done = command("data", "check", "anything")
        assert done.returncode == 2
        assert "--modality must say what the data are; installed: " in done.stderr
        assert {"image", "ring"} <= set(
            done.stderr.rstrip().partition("installed: ")[2].split(", ")
        )
    finally:
        unregister("ring")


def interrupted(words, file, number):
    """(exit code, standard error) of a command that gets a signal as soon as it has written a file."""
    running = [sys.executable, "-m", "genkit", *words]
    with subprocess.Popen(running, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not file.exists():
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_ctrl_c_saves_and_resume_goes_on(tmp_path, command):
    out = tmp_path / "run"
    words = ["train", "image", "--items", "1000000", "--out", str(out), *SMALL]
    status, errors = interrupted(words, out / "metrics.jsonl", signal.SIGINT)
    assert status == 130
    assert "everything is saved" in errors
    assert "Traceback" not in errors
    done = command("info", out, "--json")
    items = json.loads(done.stdout)["items"]
    assert items > 0
    done = command("train", "image", "--resume", "--out", out, "--items", items + 160)
    assert done.returncode == 0, done.stderr
    assert f"resumed at {items:,} items" in done.stderr


def test_a_generation_that_is_ended_leaves_whole_files(tmp_path, trained):
    out = tmp_path / "samples"
    words = ["generate", str(trained), "-n", "1000000", "--out", str(out)]
    status, errors = interrupted(words, out / "000100.png", signal.SIGTERM)
    assert (status, errors.splitlines()[-1]) == (143, "genkit: stopped")
    files = {path.name: path.stat().st_size for path in out.iterdir()}
    rows = json.loads((out / "samples.json").read_text())["samples"]
    (notes,) = out.glob("samples.1-of-1.*.part")  # for --resume
    assert {row["file"] for row in rows} == files.keys() - {"samples.json", notes.name}
    assert all(files.values())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
@pytest.mark.parametrize("place", ["parse_args", "invoke"])
def test_a_signal_ends_any_command_at_any_time(command, monkeypatch, place, number, code):
    def end(*_):
        os.kill(os.getpid(), number)
        time.sleep(1)

    monkeypatch.setattr(TyperGroup, place, end)
    done = command("--version")
    assert (done.returncode, done.stderr, done.stdout) == (code, "genkit: stopped\n", "")


PRESS = """
import atexit, os, signal, sys

place = sys.argv.pop()
sys.modules.pop(place, None)
sys.argv.append("--version")
press = lambda: os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(lambda event, arguments: event == "import" and arguments[0] == place and press())
if place == "exit":
    atexit.register(press)
from genkit.cli import main

main()
"""


@pytest.mark.skipif(os.name != "posix", reason="os.kill sends no Ctrl-C elsewhere")
@pytest.mark.parametrize("place", ["typing", "genkit.errors", "typer", "exit"])
def test_ctrl_c_while_the_program_begins_or_ends_leaves_no_traceback(place):
    done = subprocess.run([sys.executable, "-c", PRESS, place], capture_output=True, text=True)
    assert done.returncode in (-signal.SIGINT, 130)  # the first is 130 to a shell
    assert done.stderr in ("", "genkit: stopped\n")


def test_a_signal_while_data_are_opened_changes_nothing_and_has_its_exit_code(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "open_data", lambda *_: (_ for _ in ()).throw(_Terminated(10)))
    with pytest.raises(Interrupted) as caught:
        training.train(ring, out=tmp_path / "run")
    assert caught.value.exit_code == 138
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("words", "code", "errors"),
    [
        ("--version >/dev/full", 1, "genkit: cannot write to standard output: No space left on device\n"),
        ("--version >&-", 0, ""),
        ("trian 2>/dev/full", 2, ""),
        ("trian 2>&-", 2, ""),
    ],
)  # fmt: skip
def test_streams_that_are_full_or_closed_bring_no_traceback(words, code, errors):
    shell = f"{sys.executable} -m genkit {words}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (code, errors, "")


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps the working folder")
def test_a_working_folder_that_is_gone_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["train", "image"], ["data", "check", "x"], ["plugins", "list"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("genkit: the working folder cannot be used (No ")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_any_text_can_be_printed_in_any_locale(monkeypatch, errors):
    """In the POSIX locale standard output is ASCII, with surrogateescape."""
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    app = group("Print.")
    app.command("say", cls=Command)(lambda: print("\xe9 \udce9 \U0001f600"))
    with pytest.raises(SystemExit) as end:
        run(app, "x", ["say"])
    assert (end.value.code, stream.buffer.getvalue()) == (0, b"\\u00e9 \xe9 \\U0001f600\n")


def test_a_run_goes_on_when_nobody_reads_its_progress(tmp_path):
    """As in `train ... 2>&1 | head -1`, or after the terminal is gone."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "genkit", "train", "image", "--preset", "dcgan", "--out", out]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*words, "--items", "32", *SMALL], stderr=writer, stdout=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, f"{out / 'model'}\n")


def test_what_takes_long_says_how_far_it_is(trained, tmp_path, command, monkeypatch):
    monkeypatch.setattr("genkit.system.runtime.PATIENCE", 0.01)
    done = command("generate", trained, "-n", 300, "--out", tmp_path / "s")
    assert done.returncode == 0
    assert " of 300 samples are drawn: 0 s so far\n" in done.stderr


def test_more_samples_than_memory_holds_are_refused_for_one_file(trained, tmp_path, command):
    words = ["generate", trained, "-n", 99999999999, "--out", tmp_path / "x.png"]
    assert_mistake(command(*words), "99,999,999,999 samples in one file need ")


def test_version_and_help(genkit, command):
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
        done = command(*words, "--help")
        assert (done.returncode, "Usage:" in done.stdout) == (0, True)


def test_a_reader_that_leaves_early_is_no_error():
    shell = f"{sys.executable} -m genkit train image --print-config | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_a_terminal_gets_a_bar_and_nothing_else_does(tmp_path):
    import pty

    words = ["train", "image", "--items", "320", "--out", str(tmp_path / "run"), *SMALL]
    running = [sys.executable, "-m", "genkit", *words]
    master, slave = pty.openpty()
    with subprocess.Popen(running, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
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
def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(tmp_path, command):
    out = tmp_path / "run"
    assert command("train", "image", "--items", 160, "--out", out, *SMALL).returncode == 0
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    words = f"{sys.executable} -m genkit train image --resume --items 320 --out {out} -q"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; {words}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("genkit: cannot write")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before
    assert command("train", "image", "--resume", "--items", 320, "--out", out).returncode == 0


def test_no_environment_brings_a_traceback(tmp_path, trained, process):
    """Without HOME and without an entry for this user, as in some containers."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef missing(*_): raise KeyError\npwd.getpwuid = pwd.getpwnam = missing\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    words = ["plugins", "list"], ["generate", trained, "-n", "1", "--out", tmp_path / "s"]
    for one in words:
        command = [sys.executable, "-m", "genkit", *map(str, one)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_whose_name_is_no_text_can_be_used(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.makedirs(folder + b"/pictures")
    for number in range(16):
        Path(os.fsdecode(folder), "pictures", f"{number}.pgm").write_bytes(PICTURE)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}

    out = folder + b"/run"
    words = [sys.executable, "-m", "genkit", "train", "image", "--data", folder + b"/pictures"]
    words += ["--items", "64", "--out", out, *SMALL]
    done = subprocess.run(words, capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, out + b"/model\n"), done.stderr
    assert len(load(os.fsdecode(out)).generate(2)) == 2


def test_progress_says_its_unit():
    progress = Progress(1200, 4000, 65.0, 100.0, 18.0, "game")
    assert _done(progress, 4000) == "1,200/4,000 items"
    assert _done(replace(progress, total_items=None), 165.0) == "1:05/2:45 min"
