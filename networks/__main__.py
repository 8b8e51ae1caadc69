"""``python -m networks run ...``: MONAI's ``python -m monai.bundle run ...`` with every mistake as one sentence.

MONAI reads its config files before any code of this package runs, so that a missing file or a comma too many can only
be explained by who is there first. Arguments, ids and results are the same.
"""

import runpy
import sys

from networks.workflow.errors import report_errors


def main() -> None:
    """Check the command line, then hand it to MONAI."""
    sys.argv[0] = "monai/bundle/__main__.py"
    report_errors()
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
