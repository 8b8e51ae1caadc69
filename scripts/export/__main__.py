"""Export a bundle's network: ``python -m scripts.export NAME --format FORMAT``."""

from scripts import command_line
from scripts.export.exporting import export

if __name__ == "__main__":
    command_line.run(export, "export")
