"""The command line as a user meets it: exit codes, pure JSON, fast help, one-paragraph errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import finetune, finetune_here, paint

SMALL = ("--weights", "random", "--image-size", 32, "--set", "batch_size=8", "--epochs", 1)


def test_help_and_errors_are_quick_and_do_not_import_tensorflow(tmp_path):
    (tmp_path / "typo.yaml").write_text("epoch: 3\n")
    for arguments, code in (
        (["--help"], 0),
        (["run", "--help"], 0),
        (["run", str(tmp_path / "typo.yaml")], 2),
    ):
        script = f"import sys; sys.argv = ['finetune', *{arguments!r}]\n"
        script += "from finetune.cli.app import main\ntry:\n    main()\nfinally:\n"
        script += "    heavy = {'tensorflow', 'keras', 'pandas', 'sklearn'} & set(sys.modules)\n"
        script += "    print(sorted(heavy), file=sys.stderr)"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.splitlines()[-1]) == (code, "[]"), done.stderr


def test_signals_are_written_to_a_socket_that_stays_open():
    """A closed one's number goes to the next file that is opened, and signals into that file."""
    code = (
        "import os, signal, stat\nfrom finetune.cli.app import _watch_signals\n_watch_signals()\n"
    )
    code += "assert stat.S_ISSOCK(os.fstat(signal.set_wakeup_fd(-1)).st_mode)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version_and_backbones_and_schema():
    assert finetune_here("--version").stdout.startswith("finetune 0.")
    found = json.loads(finetune_here("backbones", "--json").stdout)
    assert {"vgg16", "resnet50", "densenet121", "mobilenet", "mini-cnn"} <= set(found)
    assert found["vgg16"]["cuts"][-1] == "block5_pool"
    assert (
        json.loads(finetune_here("recipe", "schema").stdout)["properties"]["epochs"]["type"]
        == "integer"
    )


@pytest.mark.parametrize("other", [["--dry-run"], ["--resume", "r"], ["--track", "tensorboard"]])
def test_find_lr_refuses_what_it_would_not_look_at(other):
    done = finetune_here("run", "--find-lr", *other)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--find-lr does not go with {other[0]}" in done.stderr


def test_run_json_keeps_the_contract_and_stdout_pure(photos, tmp_path):
    out = tmp_path / "out"
    done = finetune(
        "run", "--data", photos, "--strategy", "top-blocks", *SMALL, "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object and nothing else
    assert result["run"] == str(out)
    assert (result["backbone"], result["strategy"], result["cut"]) == (
        "vgg16",
        "top-blocks",
        "block4_pool",
    )
    assert result["parameters"]["total"] > result["parameters"]["trainable"] > 0
    assert len(result["split"]) == 64
    assert set(result["validation"]) >= {"accuracy", "n"}
    assert set(result["test"]) >= {"accuracy", "loss", "n"}
    assert set(result["seconds"]) >= {"extract", "train", "total"}
    assert "oneDNN" not in done.stderr, "TensorFlow's own messages are for -v"
    again = finetune_here("run", "--resume", out, "--json")
    assert (again.returncode, json.loads(again.stdout)["test"]) == (0, result["test"])
    quiet = finetune_here("-q", "run", out / "recipe.yaml", "--out", tmp_path / "again")
    assert quiet.returncode == 0, quiet.stderr
    assert "freeze audit" not in quiet.stderr
    assert "test accuracy" in quiet.stdout


def test_dry_run_prints_the_plan_and_does_nothing(photos, tmp_path, cache):
    done = finetune_here("run", "--data", photos, *SMALL, "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "cut at block4_pool (2 x 2 x 512)" in done.stdout
    assert "26 still to be computed" in done.stdout
    assert not (tmp_path / "out").exists()
    assert not (cache / "activations").exists()


def test_extract_features_writes_aligned_rows_and_reuses_them(photos, tmp_path):
    arguments = (
        "extract-features",
        "--data",
        photos,
        "--weights",
        "random",
        "--image-size",
        32,
        "--json",
    )
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / ".features.npy.x1.tmp").write_text("of a writer that was killed")
    first = json.loads(finetune_here(*arguments, "--out", tmp_path / "f").stdout)
    assert not list((tmp_path / "f").glob("*.tmp"))
    assert (first["n"], first["shape"], first["cached"]) == (26, [26, 512], False)
    assert first["images_per_second"] > 0
    pooled, index = (
        np.load(tmp_path / "f" / "features.npy"),
        pd.read_csv(tmp_path / "f" / "index.csv"),
    )
    assert list(index.columns) == ["row", "file", "class", "label", "split"]
    assert (index["file"].str.split("/").str[1] == index["class"]).all()
    second = json.loads(
        finetune_here(*arguments, "--out", tmp_path / "m", "--pooling", "none").stdout
    )
    assert (second["shape"], second["cached"]) == ([26, 1, 1, 512], True)
    maps = np.load(tmp_path / "m" / "features.npy").astype(np.float32)
    np.testing.assert_allclose(pooled, maps.mean(axis=(1, 2)), rtol=1e-3)
    listed = json.loads(finetune_here("cache", "ls", "--json").stdout)["entries"]
    assert [(entry["rows"], entry["fields"]["cut"]) for entry in listed] == [(26, "block5_pool")]
    wrong = finetune_here(*arguments, "--cut", "block4_pol")
    assert wrong.returncode == 2
    assert "block4_pool" in wrong.stderr


def one_paragraph(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def test_bad_data_is_one_paragraph_with_the_fix_and_exit_code_3(tmp_path):
    (tmp_path / "empty").mkdir()
    one_paragraph(
        finetune_here("run", "--data", tmp_path / "empty"), 3, "holds no class folders", "Needed:"
    )
    for i in range(5):
        paint(tmp_path / "one" / "cats" / f"{i}.png", (9, 9, 9), i)
    one_paragraph(finetune_here("run", "--data", tmp_path / "one"), 3, "only one class")
    paint(tmp_path / "one" / "dogs" / "1.png", (9, 9, 9), 99)
    one_paragraph(
        finetune_here("run", "--data", tmp_path / "one"), 3, "dogs/ has too few", "1 of 3"
    )
    one_paragraph(
        finetune_here("run", "--data", "cats-and-dog-small"), 3, "did you mean cats-and-dogs-small?"
    )
    for split, names in {"train": "ab", "validation": "ab", "test": "ac"}.items():
        for name in names:
            for i in range(3):
                paint(tmp_path / "sets" / split / name / f"{i}.png", (9, 9, 9), i)
    one_paragraph(
        finetune_here("run", "--data", tmp_path / "sets"),
        3,
        "test/ lacks the class 'b'",
        "new class 'c'",
    )


def test_bad_recipes_and_weights_have_their_exit_codes(photos, tmp_path):
    one_paragraph(
        finetune_here("run", "--set", "lerning_rate=1"), 2, "did you mean 'learning_rate'?"
    )
    one_paragraph(finetune_here("run", tmp_path / "none.yaml"), 2, "does not exist")
    assert "Traceback" in finetune_here("run", tmp_path / "none.yaml", "-v").stderr
    one_paragraph(
        finetune_here("run", "--data", photos, "--weights", "imagnet"),
        2,
        "imagenet, random, the path",
    )
    (tmp_path / "w.h5").write_text("text")
    one_paragraph(
        finetune_here("run", "--data", photos, "--weights", tmp_path / "w.h5"),
        4,
        "no weight file",
        "Nothing was loaded",
    )
    assert finetune_here("run", "--epochs", "two").returncode == 2


def test_resnet_without_a_route_to_weights_says_the_three_ways_out(photos, tmp_path):
    """With no network: a proxy that refuses at once stands in for it, and the file is nowhere."""
    refuse = {
        "FINETUNE_WEIGHTS_DIR": str(tmp_path),
        "KERAS_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    done = finetune(
        "run", "--data", photos, "--backbone", "resnet50", "--strategy", "top-blocks", **refuse
    )
    one_paragraph(
        done,
        3,
        "No ImageNet weights of ResNet50",
        "Three ways out",
        "resnet50_weights_tf_dim_ordering",
    )


def test_ctrl_c_ends_with_130_and_resume_finishes(photos, tmp_path):
    out = tmp_path / "out"
    recipe = {
        "data": str(photos),
        "weights": "random",
        "image_size": 64,
        "epochs": 400,
        "patience": 400,
        "strategy": "top-blocks",
    }
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(recipe))
    command = [
        sys.executable,
        "-m",
        "finetune",
        "run",
        str(tmp_path / "long.yaml"),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    deadline = time.monotonic() + 120
    while (
        not (out / "checkpoint.npz").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the last whole epoch is in" in stderr
    assert f"finetune run --resume {out}" in stderr
    assert "Traceback" not in stderr
    text = (out / "recipe.yaml").read_text()
    assert "epochs: 400" in text


@pytest.mark.parametrize("name", ["sketches", "digits"])
def test_data_builds_the_embedded_sets(name):
    done = finetune_here("data", name, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sum(result["photos"].values()) == {"sketches": 400, "digits": 1797}[name]
    assert len(result["classes"]) == {"sketches": 2, "digits": 10}[name]


# What a person types


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trian"], 2, "Did you mean 'run'?"),
        (["pretict"], 2, "Did you mean 'predict'?"),
        (["cache", "lss"], 2, "Did you mean 'ls'?"),
        (["run", "--set", "epochs.x=3", "--epochs", "3"], 2, "has no keys of its own"),
        (["run", "--set", "{}=3"], 2, "unknown key"),
        (["predict", "no-run", "https://example.org/cat.jpg"], 2, "is an address"),
        (
            ["explain", "no-run", "https://example.org/cat.jpg"],
            2,
            "https://example.org/cat.jpg is an address",
        ),
        (["run", "--precision", "float16"], 2, "float16"),
        (["export", "no-run", "--format", "keras"], 3, "no-run does not exist"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(arguments, code, words):
    done = finetune_here(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_folder_given_as_a_recipe_is_offered_as_data(tmp_path):
    done = finetune_here("run", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"finetune run --data {tmp_path}" in done.stderr


def test_every_command_has_short_help_with_defaults_and_an_example():
    """In one process: the command line is built from the signatures once."""
    from typer.testing import CliRunner

    from finetune.cli import manage, train, use
    from finetune.cli.app import app

    commands = [[name] for name in (*train.VERBS, *use.VERBS, *manage.VERBS)]
    commands += [["cache", name] for name in manage.CACHE_VERBS]
    for command in [*commands, ["recipe", "schema"]]:
        done = CliRunner().invoke(app, [*command, "-h"])
        assert done.exit_code == 0, done.output
        assert f"Example: finetune {' '.join(command)}" in " ".join(done.output.split())
        assert "--json" in done.output or command == ["serve"]
    root = CliRunner().invoke(app, ["-h"]).output
    assert "Fine-tune ImageNet backbones on your photos" in root
    assert "Example: finetune run" in root
    assert "--install-completion" in root


def test_each_option_of_a_command_is_a_parameter_of_its_function():
    import inspect

    import finetune as ft
    from finetune.cli import train, use

    for name, verb in {**train.VERBS, **use.VERBS}.items():
        function = getattr(ft, name.replace("-", "_"))
        own = set(inspect.signature(function).parameters) - {"reporter"}
        offered = set(inspect.signature(verb).parameters)
        assert offered - own <= {"as_json", "dry_run", "find_lr", "format", "out"}
        assert own <= offered


SLEEPER = """
import sys, time
from finetune.cli import app
from finetune.cli.verbs import derived
from finetune.commands.check import check

def call(**given):
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        {last}

app.app.command("sleep")(derived(check, call, "", {{}}))
sys.argv = ["finetune", "sleep", "x"]
app.main()
"""


def signalled(last: str, *numbers: int) -> int:
    """Exit code of a command that waits, sent signals one after the other."""
    code = SLEEPER.format(last=last)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ), text=True
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)
    return process.wait(timeout=60)


def test_sigterm_is_143_and_ctrl_c_130():
    assert signalled("pass", signal.SIGTERM) == 143
    assert signalled("pass", signal.SIGINT) == 130


def test_a_second_ctrl_c_ends_at_once_whatever_the_first_one_waits_for():
    in_c = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**8)"  # looks at no signal
    assert signalled(in_c, signal.SIGINT, signal.SIGINT) == 130


def test_signals_are_written_to_a_descriptor_that_stays_open():
    code = "import os, signal; from finetune.cli.app import _watch_signals; _watch_signals(); "
    code += "os.fstat(signal.set_wakeup_fd(-1))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_said_to_be_saved_is_what_is_there(tmp_path):
    from finetune.runs.interruption import saved_run

    assert "nothing was begun" in saved_run(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    assert "no epoch was finished" in saved_run(tmp_path)
    (tmp_path / "checkpoint.npz").touch()
    assert f"finetune run --resume {tmp_path}" in saved_run(tmp_path)
    (tmp_path / "metrics.json").touch()
    assert "is finished" in saved_run(tmp_path)


@pytest.mark.parametrize("columns", [80, 120])
def test_help_cuts_no_summary_and_says_every_default(columns):
    import typer

    from finetune.cli.app import app

    done = finetune_here("--help", COLUMNS=str(columns))
    assert "..." not in done.stdout.replace("[ARGS]...", "")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            continue
        assert "Example: finetune" in command.help, name
        for option in command.params:
            given = option.default not in (None, False, [], ())
            flag = option.required or option.param_type_name != "option" or option.is_flag
            assert option.help, (name, option.name)
            assert flag or given or "Default: " in option.help, (name, option.name)


def test_an_option_that_is_a_recipe_key_is_shown_with_set():
    done = finetune_here("run", "--dropout", "0.5")
    assert done.returncode == 2
    assert "--set head.dropout=VALUE" in " ".join(done.stderr.replace("│", " ").split())
    assert "--set" not in finetune_here("predict", "--dropout", "0.5").stderr


def test_a_dry_run_downloads_nothing(monkeypatch):
    monkeypatch.delenv("FINETUNE_DATA_DIR", raising=False)
    one_paragraph(finetune_here("run", "--dry-run", "-q"), 3, "a dry run downloads nothing")
    said = finetune_here("run", "--dry-run").stderr
    assert said.startswith("no --data was given: the photos are cats-and-dogs-small")


def test_a_comparison_without_a_trial_that_can_run_ends_so_before_it_begins(photos, tmp_path):
    recipe = tmp_path / "r.yaml"
    keys = f"data: {photos}\nweights: none.h5\nimage_size: 32\nmatrix:\n  seed: [0, 1, 2]\n"
    recipe.write_text(keys)
    done = finetune_here("compare", recipe, "--dry-run", "-q")
    assert done.returncode == 5
    assert done.stdout.count("none.h5") == 1, "one reason of three trials is said once"


def test_swapped_arguments_are_pointed_out(photos):
    photo = photos / "test/apples/0.png"
    one_paragraph(finetune_here("predict", photo, photos), 3, "swapped", "finetune predict RUN")


@pytest.mark.parametrize("command", [("extract-features", "--data"), ("advise",)])
def test_a_place_that_cannot_be_written_is_said_before_the_work(photos, tmp_path, command):
    (tmp_path / "file").touch()
    name, *option = command
    done = finetune_here(name, *option, photos, "--weights", "random", "--out", tmp_path / "file")
    assert done.returncode == 2
    assert "photos in" not in done.stderr, "no activations were computed"


def test_a_folder_where_a_file_is_wanted_and_a_name_that_is_too_long(tmp_path):
    (tmp_path / "pics").mkdir()
    for svg in (tmp_path / "pics", tmp_path / ("x" * 300)):
        done = finetune_here("describe", "mini-cnn", "--image-size", 32, "--svg", svg)
        one_paragraph(done, 2, "cannot be used")


def test_a_control_sequence_in_a_file_s_name_reaches_no_terminal(photos):
    (photos / "train/apples/\x1b]0;owned\x07.jpg").write_text("no picture")
    done = finetune_here("check", photos)
    assert done.returncode == 3
    assert "owned" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_what_a_terminal_cannot_say_is_escaped(photos):
    command = [sys.executable, "-m", "finetune", "check", str(photos)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\xb1" in done.stdout


def _script() -> str:
    return str(Path(sys.executable).with_name("finetune"))


def test_completion_is_installed_in_bash_and_completes(tmp_path):
    environment = os.environ | {
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run(
        [_script(), "--install-completion", "bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob(".bash_completions/*.sh")
    assert str(file) in (tmp_path / ".bashrc").read_text()
    script = (
        f". {file}; PATH={Path(_script()).parent}:$PATH; complete -p finetune >/dev/null; "
        "COMP_WORDS=(finetune ex); COMP_CWORD=1; _finetune_completion finetune ex finetune; "
        "echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["explain", "export", "extract-features"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_answers_other_shells(shell):
    """The scripts of these shells ask with these variables."""
    asked = {
        "_FINETUNE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "finetune ex",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run([_script()], env=os.environ | asked, capture_output=True, text=True)
    for name in ("explain", "export", "extract-features"):
        assert name in done.stdout, done.stderr


def test_a_closed_pipe_ends_quietly_and_leaves_its_signal_alone():
    """With the signal's default, a process that used the command line dies of any broken pipe."""
    code = "import sys, signal; from finetune.cli.use import _until_closed;"
    code += "assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN;"
    code += (
        "_until_closed(sys.stdout.buffer, lambda out: [out.write(bytes(9999)) for _ in range(99)])"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
