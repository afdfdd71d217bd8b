import os
import subprocess
import sys

import pytest

from quatro.format.errors import CheckpointError, MachineError
from quatro.integrations.files import whole_directory, whole_file


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_a_directory_appears_when_the_block_ends_well(tmp_path):
    with whole_directory(tmp_path / "a" / "out") as staging:
        (staging / "file").write_text("whole")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "whole"
    assert names(tmp_path / "a") == ["out"]


def test_nothing_is_left_behind_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "out") as staging:
        (staging / "file").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_overwriting_replaces_a_directory_only_when_the_new_one_is_whole(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(target, overwrite=True) as staging:
        (staging / "new").write_text("half")
        raise RuntimeError
    assert names(target) == ["old"]
    with whole_directory(target, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["out"]


def test_a_directory_in_use_a_file_and_a_link_are_refused(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "used")
    for name, complaint in [("used", "not empty"), ("file", "is a file"), ("link", "is a link")]:
        with pytest.raises(CheckpointError, match=complaint), whole_directory(tmp_path / name):
            pass
    assert names(tmp_path) == ["file", "link", "used"]


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_directory(tmp_path / "out") as staging:
        (staging / "file").touch()
    assert names(tmp_path / "out") == ["file"]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report.md"
    with whole_file(target) as staging:
        staging.write_text("first")
    with pytest.raises(RuntimeError), whole_file(target) as staging:
        staging.write_text("half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert names(tmp_path) == ["report.md"]


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from quatro.format.errors import MachineError
from quatro.integrations.files import whole_directory
try:
    with whole_directory(sys.argv[1]) as staging:
        (staging / "small").write_bytes(b"x" * 100)
        (staging / "large").write_bytes(b"x" * 100_000)
except MachineError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_gives_one_sentence_and_leaves_nothing(tmp_path):
    """The kernel's file size limit stands in for a full disk: the write fails in the middle with an OSError of its own."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.stdout.startswith(f"could not write {tmp_path / 'out'}: "), done.stderr
    assert "Nothing of it was kept" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_rights_gives_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="could not write"), whole_directory(tmp_path / "out"):
        pass
