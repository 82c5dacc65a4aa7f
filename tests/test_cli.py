"""The command line as a user meets it: help, start-up, messages, exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kdcli.cli import main

COMMANDS = sorted(main.commands)


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_the_commands_are_those_promised() -> None:
    promised = {
        "generate-tutors", "inspect-cache", "train-student", "evaluate-tutors",
        "evaluate-student", "predict", "make-sample", "env",
    }  # fmt: skip
    assert promised <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_explains_every_option(name: str) -> None:
    code, output = invoke(name, "--help")
    assert code == 0
    assert f"kdcli {name}" in output.split("Options:")[0].replace("Usage: ", "", 1)
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"--{parameter.name} says nothing"


def test_help_imports_nothing_heavy() -> None:
    """`kdcli --help` has to answer at once: no torch, numpy, zarr or Detectron2 behind it."""
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from kdcli.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'zarr', 'detectron2', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate-tutors", "--voc", "{tmp}", "--list", "Main/train", "--out", "{tmp}/c.zarr"],
         ["{tmp}", "JPEGImages"]),
        (["inspect-cache", "{tmp}/absent.zarr"], ["{tmp}/absent.zarr"]),
        (["evaluate-student", "{tmp}/absent", "--voc", "{tmp}", "--list", "Segmentation/val"],
         ["{tmp}"]),
        (["train-student", "--voc", "{tmp}", "--list", "Main/train", "--out", "{tmp}/run"],
         ["{tmp}", "JPEGImages"]),
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_message_and_no_traceback(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    command = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "kdcli", *command], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    for word in words:
        assert word.replace("{tmp}", str(tmp_path)) in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_output_to_a_full_disk_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kdcli", "list-recipes"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: No space left on device: for what this command prints")
    assert len(done.stderr.splitlines()) == 1
