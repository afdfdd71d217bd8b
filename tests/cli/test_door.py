"""How a command line is understood, and how every error leaves."""

import json
import signal
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from quatro.cli.console import json_text
from quatro.cli.door import Door, take_debug
from quatro.format.errors import InputError, MachineError

VERBS = ("demo", "doctor", "quantize", "train", "chat", "compare", "bench")


def failing(error):
    """A small program with one verb that fails and one that does not."""
    app = typer.Typer(cls=Door, add_completion=False)

    @app.callback()
    def root() -> None:
        """A program."""

    @app.command()
    def fail(number: int = 1) -> None:
        """Fail."""
        raise error

    @app.command()
    def leave() -> None:
        """Leave with a code of its own."""
        raise typer.Exit(7)

    return lambda *args: CliRunner(env={"NO_COLOR": "1"}).invoke(app, list(args), prog_name="prog")


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)])
def test_help_needs_neither_torch_nor_transformers(verb):
    code = (
        "import sys; from quatro.cli.main import app\n"
        f"app({[*verb, '--help']!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "Usage" in found.stdout


def test_without_a_verb_the_help_is_shown_with_the_verbs_in_their_order(run):
    found = run()
    assert found.exit_code == 0
    places = [found.stdout.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("no such thing as 5; choose 4"), 2, "quatro: no such thing as 5; choose 4\n"),
        (MachineError("the disk is full"), 1, "quatro: the disk is full\n"),
        (ZeroDivisionError("by zero"), 1, "quatro: unexpected ZeroDivisionError: by zero\n"),
        (OSError(28, "No space left on device", "out.bin"), 1, "quatro: no space left on device: out.bin\n"),
        (KeyboardInterrupt(), 130, "quatro: stopped\n"),
        (typer.Abort(), 130, "quatro: stopped\n"),
    ],
)
def test_an_error_is_one_sentence_and_a_code(error, code, sentence):
    found = failing(error)("fail")
    assert (found.exit_code, found.stdout) == (code, "")
    assert found.stderr.startswith(sentence)
    assert "Traceback" not in found.output


def test_an_unexpected_error_says_how_to_see_more_and_an_expected_one_does_not():
    assert "--debug" in failing(ZeroDivisionError("by zero"))("fail").stderr
    assert "--debug" not in failing(InputError("wrong"))("fail").stderr


@pytest.mark.parametrize("args", [("--debug", "fail"), ("fail", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(args):
    found = failing(InputError("wrong"))(*args)
    assert found.exit_code == 2
    assert "Traceback" in found.stderr
    assert "raise error" in found.stderr


def test_debug_after_two_dashes_is_a_word_like_any_other():
    assert take_debug(["chat", "--debug", "x"]) == (["chat", "x"], True)
    assert take_debug(["chat", "--", "--debug"]) == (["chat", "--", "--debug"], False)


def test_a_verbs_own_exit_code_is_kept():
    assert failing(None)("leave").exit_code == 7


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["chta"], "quatro: no such command 'chta'; did you mean 'chat'?"),
        (["chat", "--promt", "x", "y"], "quatro: no such option --promt; did you mean --prompt?"),
        (["chat"], "quatro: missing argument 'MODEL'"),
        (["chat", "x", "--max-new-tokens", "many"], "quatro: invalid value for '--max-new-tokens'"),
        (["quantize", "a", "b", "c"], "quatro: got unexpected extra argument"),
        (["--nonsense"], "quatro: no such option --nonsense"),
        (["compare", "x"], "quatro: missing option '--adapter'"),
    ],
)
def test_a_wrong_command_line_looks_like_every_other_error(run, args, sentence):
    found = run(*args)
    assert found.exit_code == 2
    assert found.stderr.startswith(sentence)
    assert "--help shows what it takes" in found.stderr
    assert found.stdout == ""


def test_the_version_is_told(run):
    import quatro

    assert run("--version").stdout == f"quatro {quatro.__version__}\n"


def test_json_has_null_where_a_number_is_none():
    assert json.loads(json_text({"a": float("nan"), "b": [float("inf")], "c": 1.5, "é": None})) == {
        "a": None,
        "b": [None],
        "c": 1.5,
        "é": None,
    }


def test_the_program_itself_fails_with_a_sentence_and_without_a_traceback(program):
    found = program("compare", "model", "--adapter", "adapter")
    assert found.returncode == 2
    assert found.stderr.startswith("quatro: compare needs something to compare on")
    assert found.stderr.count("\n") == 1
    shown = program("compare", "model", "--adapter", "adapter", "--debug")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert program("compare").returncode == 2


def test_sigterm_ends_with_143_and_without_a_traceback(tmp_path):
    code = (
        "import sys, time, signal, quatro.cli.main as m\n"
        "import quatro.cli.doctor as d\n"
        "d.busy = lambda text: (print('ready', flush=True), time.sleep(60))\n"
        "sys.argv = ['quatro', 'doctor']\n"
        "m.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in said


def test_a_closed_pipe_is_no_error(program):
    command = f"{sys.executable} -m quatro --help | head -c 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert len(found.stdout) == 1
    assert "Traceback" not in found.stderr
