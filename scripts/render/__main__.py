"""Render the bundles' configs and documentation from the catalog: ``python -m scripts.render [--check]``."""

import sys

from scripts import command_line


@command_line.when_stopped("The same command renders what is still to be rendered.")
def render(check: bool = False, configs: bool = False) -> None:
    """Write every file that follows from the catalog and differs, and remove what is left over among the configs.

    Args:
        check: write nothing, name what differs or is left over, and exit with 1 if anything does.
        configs: only the bundles' configs and licences, not the documents, whose tables take longer.
    """
    from networks.workflow.files import atomic
    from scripts.render.files import ROOT, existing_configs, rendered_files

    files = rendered_files(configs)
    drift = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    left_over = [path for path in existing_configs() if path not in files]
    if check:
        for path in drift + left_over:
            print(f"{path.relative_to(ROOT)} is not what the catalog renders.", file=sys.stderr)
        if drift or left_over:
            raise SystemExit("Run 'python -m scripts.render' and commit what it changes.")
        return
    for path in drift:
        with atomic(path) as temporary:
            temporary.write_text(files[path], encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}.")
    for path in left_over:
        path.unlink()
        print(f"Removed {path.relative_to(ROOT)}.")


COMMANDS = render

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.render")
