"""Command line: ``python -m scripts.label app|start``."""

from collections.abc import Sequence

from scripts import command_line


@command_line.when_stopped("The app has the bundles that were written; leave them out and give the others again.")
def app(bundles: str | Sequence[str], output_dir: str = "apps/segmentation") -> None:
    """Write a MONAI Label app, or add bundles to one.

    The bundles are packed ones, with their code, so the folder needs nothing of this repository. One without weights
    can be trained in the app.

    Args:
        bundles: names of this repository's bundles, with the weights that they were trained to, or of the weights that
            come with them ("hippocampus", "superalloys"), or folders, zip files or addresses of packed bundles; several
            are separated by commas.
        output_dir: the app's folder.
    """
    from scripts.label import prepare

    prepare.app(bundles, output_dir)


@command_line.when_stopped("The server had not started.")
def start(
    studies: str,
    app: str = "apps/segmentation",
    host: str = "127.0.0.1",
    port: int = 8000,
    uncertainty: str = "",
    auto_scoring: bool = True,
) -> None:
    """Serve an app with MONAI Label until Ctrl-C; needs the extra "label" in an environment of its own.

    Args:
        studies: folder of images (NIfTI, NRRD, MetaImage, PNG, TIFF, JPEG, BMP), or the address of a DICOMweb server.
        app: folder that ``app`` wrote.
        host: address to listen on; 0.0.0.0 for other computers to connect, who then need no password.
        port: to listen on.
        uncertainty: bundle whose uncertainty orders the images to label next; by default the first that has weights.
        auto_scoring: estimate the uncertainty of unlabelled images in the background, at the start, whenever an image
            is asked for and after every training; else only at ``POST /scoring/uncertainty``.
    """
    from scripts.label import server

    server.start(studies, app, host, port, uncertainty, auto_scoring)


COMMANDS = {"app": app, "start": start}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.label")
