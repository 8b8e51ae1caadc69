"""Hundreds of malformed inputs: each is refused by one sentence that names it, and nothing is written or changed."""

import hashlib
from pathlib import Path

import pytest

from networks.errors import UserError
from tests import malformed

CASES = [
    *malformed.contract(),
    *malformed.files(),
    *malformed.geometry(),
    *malformed.checkpoints(),
    *malformed.options(),
    *malformed.command_lines(),
]


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
def test_one_sentence(case: malformed.Case, tmp_path: Path) -> None:
    act = case.make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    for said in case.says:
        assert said in text
    assert snapshot(tmp_path) == before
