"""Score saved label maps, summarise results and compare models: ``python -m scripts.metrics <command>``."""

from scripts import command_line
from scripts.metrics.commands import compare, score, summarise

if __name__ == "__main__":
    command_line.run({"score": score, "summarise": summarise, "compare": compare}, "metrics")
