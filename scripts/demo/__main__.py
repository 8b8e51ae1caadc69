"""A page to try trained networks on: ``python -m scripts.demo``."""

from typing import Any

from scripts import command_line


@command_line.when_stopped("The page is closed; what was uploaded and made of it is removed.")
def demo(
    bundle: str | None = None,
    runtime: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    labels: str | None = None,
    port: int = 7860,
    max_mb: int = 1000,
    browser: bool = False,
    **options: Any,
) -> None:
    """Serve a page on this computer, until Ctrl-C, that segments and measures what is dropped on it.

    It offers the weights that come with the bundles and, with ``bundle`` or ``model``, any others; it writes the same
    label maps and numbers as ``scripts.predict --measure true``. Needs the extra "demo".

    The page asks for no password, so it listens on 127.0.0.1 only. Whoever reaches the port, by a tunnel or as another
    user of this computer, can use it.

    Further options are ids of the inference config, such as ckpt_path and device: of ``bundle`` or ``model`` where one
    is given, else of the weights that come with the bundles.

    Args:
        bundle: name or folder of a bundle whose trained weights are offered first.
        runtime: as for scripts.predict.
        model: file that ``scripts.export`` wrote, offered first.
        preset: data set whose preset of the inference config is used; by default that of the training.
        labels: ``dataset.json`` with the class names, where they are not those of the training.
        port: to listen on.
        max_mb: megabytes that an upload, what a zip file of it holds, or the image in memory may have.
        browser: open the page in this computer's browser.
    """
    from scripts.demo import server

    server.start(bundle, runtime, model, preset, labels, port, max_mb, browser, **options)


COMMANDS = demo

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.demo")
