"""Ctrl-C and SIGTERM at any time: a training stopped in the middle, and a signal that Python would lose."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from networks.state_dicts import read_weights
from scripts.catalog.bundles import BY_NAME
from tests.workflows import command_line, config_paths, training_overrides

UNET = BY_NAME["attention_unet"]
TRAIN = config_paths(UNET, "train")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_training_says_how_to_go_on(
    number: int, code: int, ct_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # short, as workers hand their batches over by sockets in it, whose paths have at most 107 characters
    temporary = Path(tempfile.mkdtemp(prefix="t"))
    request.addfinalizer(lambda: shutil.rmtree(temporary, ignore_errors=True))
    options = training_overrides(UNET, tmp_path, ct_dir, epochs=1000, cache_rate=0, num_workers=1)
    process = subprocess.Popen(
        [sys.executable, *command_line(TRAIN, **options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
    )
    last = tmp_path / "models" / "last.pt"
    while not last.is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    assert list(temporary.glob("slices-*"))
    # a terminal tells the whole group, the workers too
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in out + err, err
    assert err.count("Stopped.") == 1 and f"{last} holds every epoch that was completed; --resume true goes on" in err
    assert "Training:" not in err and "it/s" not in err  # no bars in a pipe
    assert "resuming from iteration" not in out and "Epoch 1 of 1000: loss" in out
    assert not list(temporary.iterdir()) and not list(tmp_path.rglob(".part*"))
    assert read_weights(last)["progress"]["epoch"] >= 1
    # no worker is left: one that was being started looks every five seconds whether this process is still there, and
    # what has ended counts until the system has reaped it
    with pytest.raises(ProcessLookupError):
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_while_an_object_is_removed_is_not_lost(number: int, code: int) -> None:
    # Python raises nothing out of a __del__: without a second signal the program would print "Stopped." and go on
    program = f"""
import os, time
from networks.workflow.stopping import stop_orderly

class Loader:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.1)

stop_orderly()
loader = Loader()
del loader
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr == "\nStopped. Nothing was written; start again.\n"
