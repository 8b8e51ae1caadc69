"""Hundreds of malformed inputs: each is refused by one sentence that names it, and nothing is written or changed."""

import hashlib
from pathlib import Path

import pytest

from networks.errors import UserError
from tests.commands import run_command
from tests.malformed import CASES, Case


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def test_they_are_many_and_distinct() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 300


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_sentence(case: Case, tmp_path: Path) -> None:
    act = case.make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    for said in case.says:
        assert said in text
    assert snapshot(tmp_path) == before


def sample() -> list[Case]:
    """Twenty that are command lines too: most of ``networks run``, some of a tool that reads a whole data set."""
    lines = [case for case in CASES if case.words is not None]
    data = [case for case in CASES if case.name in ("json half", "label values too large", "image cut early")]
    return [*lines[: 20 - len(data)], *data]


@pytest.mark.slow
@pytest.mark.parametrize("case", sample(), ids=lambda case: case.name)
def test_one_line_and_exit_code_1(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    before = snapshot(tmp_path)
    words = case.words(tmp_path) if case.words else ["-m", "scripts.datasets", "check", str(tmp_path)]
    # what libraries warn of when they are imported is theirs
    done = run_command(words, {"PYTHONWARNINGS": "ignore"})
    assert done.poll() == 1
    (line,) = [line for line in done.err.splitlines() if line.strip()]
    assert line.startswith("Error: ")
    assert snapshot(tmp_path) == before
