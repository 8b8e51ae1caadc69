"""Command line: ``python -m scripts.zoo pack|verify|push``."""

import os
import sys

import fire

from scripts.zoo.pack import pack
from scripts.zoo.push import push
from scripts.zoo.verify import verify


def main() -> None:
    """Run the command; a mistake of the user ends it with one sentence and exit code 1."""
    try:
        fire.Fire({"pack": pack, "verify": verify, "push": push}, name="zoo")
    except (OSError, ValueError) as error:
        if os.environ.get("NETWORKS_TRACEBACK"):
            raise
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
