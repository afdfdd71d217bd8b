"""quatro chat."""

import codecs
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from quatro.cli import repl
from quatro.cli.models import model_path
from quatro.format.errors import InputError
from quatro.generation import Sampling, answers

# peft 0.21 reads a property that transformers 5.23 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


class Parrot:
    """A conversation that repeats, and remembers what it was told to do."""

    def __init__(self):
        self.done = []
        self.interrupt = self.refuse = False

    def ask(self, text):
        if self.refuse:
            raise InputError("too long; shorten it")
        self.done.append(text)
        yield f"{text}! "
        if self.interrupt:
            raise KeyboardInterrupt
        yield text

    def undo(self):
        return self.done.pop() if self.done else None

    def reset(self):
        self.done = ["reset"]


def typed(monkeypatch, *lines):
    """input() gives these lines, raises what is an exception, and then says that nothing follows."""
    left = list(lines)

    def read(prompt):
        if not left:
            raise EOFError
        line = left.pop(0)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)


def test_one_answer_stands_alone_on_stdout_and_is_what_the_model_says(run, model_dir):
    from quatro.integrations.loading import load

    found = run("chat", model_dir, "--prompt", "Who is there?", "--max-new-tokens", "12")
    assert found.exit_code == 0, found.stderr
    expected = answers(*load(model_dir), [[{"role": "user", "content": "Who is there?"}]], max_new_tokens=12)
    assert found.stdout == expected[0] + "\n"


def test_an_adapter_changes_the_answer(run, model_dir, adapter_dir):
    question = ("--prompt", "Who?", "--max-new-tokens", "12")
    assert run("chat", model_dir, *question).stdout != run("chat", model_dir, "--adapter", adapter_dir, *question).stdout


def test_the_tokenizer_that_an_adapter_was_trained_with_is_used(model_dir, adapter_dir, tmp_path):
    import shutil

    from tiny_models import byte_tokenizer

    from quatro.cli.models import load_model

    mine = shutil.copytree(adapter_dir, tmp_path / "mine")
    byte_tokenizer("{{ 'MINE' }}").save_pretrained(mine)
    assert load_model(str(model_dir), str(mine))[1].chat_template == "{{ 'MINE' }}"
    assert "<|user|>" not in load_model(str(model_dir), str(mine))[1].chat_template
    assert "MINE" not in load_model(str(model_dir), str(adapter_dir))[1].chat_template


def test_json_holds_the_answer_and_nothing_else_stands_on_stdout(run, model_dir):
    data = json.loads(run("chat", model_dir, "--prompt", "Who?", "--max-new-tokens", "4", "--json").stdout)
    assert data["prompt"] == "Who?"
    assert set(data) == {"prompt", "answer", "model", "adapter"}


def test_questions_from_a_pipe_are_answered_a_line_each(run, model_dir):
    first = run("chat", model_dir, "--prompt", "Who?", "--max-new-tokens", "4").stdout
    piped = run("chat", model_dir, "--max-new-tokens", "4", input="Who?\n\n/reset\nWho?\n").stdout
    assert piped == first + first


def test_raw_continues_text_without_a_template(run, model_dir, tmp_path):
    import shutil

    bare = shutil.copytree(model_dir, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    found = run("chat", bare, "--prompt", "Who?", "--max-new-tokens", "4")
    assert found.exit_code == 2
    assert "template" in found.stderr
    assert "--raw" in found.stderr
    assert run("chat", bare, "--prompt", "Who?", "--max-new-tokens", "4", "--raw").exit_code == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--json"], "--prompt"),
        (["--raw", "--system", "x"], "--system"),
        (["--prompt", "  "], "empty"),
        (["--temperature", "-1"], "temperature"),
        (["--prompt", "x", "--max-new-tokens", "0"], "max_new_tokens"),
        (["--prompt", "x" * 500], "shorten"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(run, model_dir, options, word):
    found = run("chat", model_dir, *options)
    assert found.exit_code == 2
    assert word in found.stderr
    assert found.stdout.strip() == ""


def test_bad_models_and_adapters_are_one_sentence(run, model_dir, wrong_adapter, tmp_path):
    (tmp_path / "file.bin").write_text("x")
    (tmp_path / "empty").mkdir()
    for model, word in [
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "empty", "config.json"),
        (tmp_path / "file.bin", "is a file"),
    ]:
        found = run("chat", model, "--prompt", "x")
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.stderr
        assert word in found.stderr
    for adapter, word in [(wrong_adapter, "another base"), (tmp_path / "empty", "adapter_config.json")]:
        found = run("chat", model_dir, "--adapter", adapter, "--prompt", "x")
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.stderr
        assert word in found.stderr


def test_demo_is_the_embedded_base_unless_a_directory_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_path("demo").endswith("assets/base")
    (tmp_path / "demo").mkdir()
    assert model_path("demo") == "demo"
    assert model_path("elsewhere") == "elsewhere"


def test_the_commands_of_a_conversation(monkeypatch, capsys):
    parrot = Parrot()
    typed(monkeypatch, "one", "/undo", "/undo", "two", "/help", "/rest", "/etc/passwd", "/reset", "/quit", "never")
    repl.converse(parrot, interactive=True)
    said = capsys.readouterr()
    assert parrot.done == ["reset"]
    assert said.out.split("\n\n") == ["one! one", "two! two", "/etc/passwd! /etc/passwd", ""]
    assert "taken back: one" in said.err
    assert "nothing to take back" in said.err
    assert "did you mean '/reset'?" in said.err
    assert all(command in said.err for command in repl.HELP)


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(monkeypatch, capsys):
    parrot = Parrot()
    parrot.interrupt = True
    typed(monkeypatch, "one", "two")
    repl.converse(parrot, interactive=True)
    said = capsys.readouterr()
    assert parrot.done == ["one", "two"]
    assert said.out.count("! \n") == 2
    assert said.err.count("stopped") == 2


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_a_second_one_leaves(monkeypatch, capsys):
    typed(monkeypatch, KeyboardInterrupt(), "one", KeyboardInterrupt(), KeyboardInterrupt(), "never")
    parrot = Parrot()
    with pytest.raises(KeyboardInterrupt):
        repl.converse(parrot, interactive=True)
    assert parrot.done == ["one"]
    assert "/quit" in capsys.readouterr().err


def test_a_question_that_is_too_long_does_not_end_the_conversation(monkeypatch, capsys):
    parrot = Parrot()
    parrot.refuse = True
    typed(monkeypatch, "one", "/quit")
    repl.converse(parrot, interactive=True)
    assert "shorten" in capsys.readouterr().err


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command):
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.seen, self.passed, self.left = "", 0, 300.0

    def wait_for(self, text):
        """Read until the text comes, and pass over it."""
        while text not in self.seen[self.passed :]:
            self.read(f"{text!r} never came")
        self.passed = self.seen.index(text, self.passed) + len(text)

    def wait_for_more(self, count):
        """Read until so many characters have come."""
        while len(self.seen) < self.passed + count:
            self.read(f"no {count} characters came")
        self.passed = len(self.seen)

    def read(self, complaint):
        assert self.left > 0, f"{complaint}; seen: {self.seen[self.passed :]!r}"
        started = time.monotonic()
        if select.select([self.ours], [], [], 1)[0]:
            try:
                self.seen += self.decoder.decode(os.read(self.ours, 4096))
            except OSError:
                raise AssertionError(f"{complaint} before it ended; seen: {self.seen!r}") from None
        self.left -= min(time.monotonic() - started, 2)  # a machine that was put to sleep did not make anyone wait

    def send(self, text):
        os.write(self.ours, text.encode())

    def end(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def without_end(directory):
    """The same model, whose likeliest token is never one that ends an answer: their logits are 0, and others are above."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    model.get_output_embeddings().weight.data[AutoTokenizer.from_pretrained(directory).all_special_ids] = 0.0
    model.save_pretrained(directory)
    return directory


def test_a_conversation_on_a_real_terminal(tmp_path):
    """Greeting, an answer without end that Ctrl-C stops, a command, and Ctrl-D."""
    from tiny_models import saved

    endless = without_end(saved(tmp_path / "endless", window=10**6))
    terminal = Terminal(sys.executable, "-m", "quatro", "chat", str(endless), "--max-new-tokens", "900000")
    try:
        terminal.wait_for("/help shows the commands")
        terminal.wait_for("›")
        terminal.send("Who are you?\r")
        terminal.wait_for("Who are you?\r\n")
        terminal.wait_for_more(40)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("stopped")
        terminal.wait_for("›")
        terminal.send("/undo\r")
        terminal.wait_for("taken back: Who are you?")
        terminal.wait_for("›")
        terminal.send("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.end()
    assert "Traceback" not in terminal.seen


def test_sampling_is_repeatable_by_its_seed(run, model_dir):
    def said(seed):
        options = ["--temperature", "2", "--max-new-tokens", "16", "--seed", seed]
        return run("chat", model_dir, "--prompt", "Who?", *options).stdout

    assert said(1) == said(1)
    assert said(1) != said(2)
    assert Sampling(temperature=2.0).config([1], 0).do_sample
