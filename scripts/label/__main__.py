"""Command line: ``python -m scripts.label app|start``."""

from scripts import command_line
from scripts.label.prepare import app
from scripts.label.server import start

if __name__ == "__main__":
    command_line.run({"app": app, "start": start}, "label")
