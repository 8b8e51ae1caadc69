"""Verifying a packed bundle: what MONAI's model zoo checks, and what a private zoo's users rely on."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from scripts.zoo.archive import UnsafeError, opened
from scripts.zoo.static_checks import SkippedError, static_checks

LOADING = Path(__file__).with_name("loading.py")
# without these the files are not the ones that were packed, so nothing of them is run
TRUST = ("manifest",)
TIMEOUT = 1800  # seconds
OUTCOMES = {True: "ok     ", False: "FAILED ", None: "skipped"}
Result = tuple[str, bool | None, str]
"""Name of a check, whether it passed (None: it could not be made here), detail."""


def verify(source: str, schema: str = "", load: bool = True) -> None:
    """Do what the command ``verify`` of this tool describes, with the same arguments.

    Raises:
        UserError: nothing is there.
    """
    results = check(str(source), schema, load)
    for name, passed, detail in results:
        print(f"{OUTCOMES[passed]}  {name}: {detail}")
    counts = Counter(passed for _, passed, _ in results)
    skipped = f", {counts[None]} skipped" if counts[None] else ""
    print(f"{source}: {counts[True]} checks passed, {counts[False]} failed{skipped}.")
    if counts[False]:
        raise SystemExit(1)


def check(source: str, schema: str = "", load: bool = True) -> list[Result]:
    """Name, success and detail of every check; see :func:`verify`.

    Raises:
        UserError: nothing is there.
    """
    results: list[Result] = []
    try:
        with opened(source) as (folder, found):
            results += [(name, True, detail) for name, detail in found.items()]
            for name, run in static_checks(schema).items():
                try:
                    results.append((name, True, run(folder)))
                except SkippedError as error:
                    results.append((name, None, str(error)))
                except ValueError as error:
                    results.append((name, False, str(error)))
            if any(name in TRUST and passed is False for name, passed, _ in results):
                results.append(("loading", False, "not tried, since the files are not those that were packed."))
            elif load:
                results += load_checks(folder)
    except UnsafeError as error:
        results.append(("archive", False, str(error)))
    return results


def load_checks(folder: Path) -> list[Result]:
    """What ``scripts/zoo/loading.py`` finds with a copy of the folder."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as temporary:
        work, copy = Path(temporary, "work"), Path(temporary, "bundles", folder.name)
        work.mkdir()
        # running a bundle writes into its folder; compiled code there need not be that of the files that were checked
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        results = Path(temporary, "results.json")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(LOADING), str(copy), str(results)],
                cwd=work,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [("loading", False, f"did not end within {TIMEOUT} seconds.")]
        if not results.is_file():
            lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
            return [("loading", False, f"did not run: {lines[-1]}")]
        if os.environ.get("NETWORKS_TRACEBACK"):
            print(done.stdout, done.stderr, file=sys.stderr)
        return [(name, passed, detail) for name, passed, detail in json.loads(results.read_text(encoding="utf-8"))]
