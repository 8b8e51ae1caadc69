"""What all the tools' command lines have in common."""

import sys

import pytest

from scripts import command_line


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("false", False), ("False", False), ("trued", "trued")])
@pytest.mark.parametrize("joined", [True, False])
def test_truth_values_in_jsons_spelling(given: str, meant: object, joined: bool, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "argv", ["tool", *([f"--value={given}"] if joined else ["--value", given])])
    command_line.run(lambda value: seen.append(value), "tool")
    assert seen == [meant]


def test_error_is_one_sentence(monkeypatch) -> None:
    def tool() -> None:
        raise ValueError("The file a.txt is empty; give another.")

    monkeypatch.setattr(sys, "argv", ["tool"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(tool, "tool")
    assert ended.value.code == "Error: The file a.txt is empty; give another."
