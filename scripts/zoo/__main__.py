"""Command line: ``python -m scripts.zoo pack|release|verify|push|submit|ship``."""

from collections.abc import Sequence

from scripts import command_line


@command_line.when_stopped("The zip files that were written are whole; the same command writes the others.")
def pack(
    *names: str, output_dir: str = "dist/zoo", base_url: str = "", aside: bool = False, overwrite: bool = False
) -> None:
    """Write ``<name>_v<version>.zip`` of every bundle, or of those named, and list them in ``model_info.json``.

    Args:
        *names: bundles, with the weights that they were trained to, or weights that come with them ("hippocampus",
            "superalloys"), or folders that scripts.compress wrote.
        output_dir: folder of the zips and of ``model_info.json``, whose other entries stay.
        base_url: where the folder will be served; becomes the entries' ``source``.
        aside: leave weights above 25 MB out of the zip, as the model zoo wants them: beside it, and listed in the
            bundle's large_files.yml. Needs ``base_url``.
        overwrite: replace a version that the folder holds with other content.
    """
    from scripts.zoo import pack

    pack.pack(*names, output_dir=output_dir, base_url=base_url, aside=aside, overwrite=overwrite)


@command_line.when_stopped("What is trained is kept, zip files that were written are whole; the same command goes on.")
def release(
    suite: str,
    runs_dir: str = "runs",
    output_dir: str = "dist/release",
    base_url: str = "",
    only: str = "",
    train: bool = True,
    overwrite: bool = False,
) -> None:
    """Train what a suite names, pack every bundle with its weights and scores, write model cards, verify.

    Of the runs of a bundle on one data set the best by its validation is packed, as ``<bundle>_<data set>``. Beside
    every zip file, ``<name>_v<version>_README.md`` is its card for the Hugging Face Hub; ``push`` writes it there.

    Args:
        suite: JSON file, as of ``scripts.experiments``.
        runs_dir: folder of the runs; what is done in it is not trained again.
        output_dir: folder of the zips and of ``model_info.json``, whose other entries stay.
        base_url: where the folder will be served; becomes the entries' ``source``.
        only: part of the names of the runs that are wanted.
        train: run what is not done; otherwise only what is done is released.
        overwrite: replace a version that the folder holds with other content.
    """
    from scripts.zoo import release

    release.release(suite, runs_dir, output_dir, base_url, only, train, overwrite)


@command_line.when_stopped("The bundle was only read.")
def verify(source: str, schema: str = "", load: bool = True) -> None:
    """Check a bundle and print every check with its outcome; exit code 1 if one fails.

    Its code runs in a process of its own, in an empty folder and without this repository on Python's path; that is no
    sandbox, so verify bundles of your own, or give ``--load false`` to read their files only.

    Args:
        source: folder, zip file, or http(s) address of a zip file.
        schema: JSON schema of the metadata, such as the model zoo's own file; this project's copy by default.
        load: also run the bundle's code.
    """
    from scripts.zoo import verify

    verify.verify(source, schema, load)


@command_line.when_stopped("The zip file is as it was; look at the repository on the hub before you push again.")
def push(name: str, repo: str, output_dir: str = "dist/zoo", private: bool = True, load: bool = True) -> None:
    """Verify a packed bundle and push it with a model card, tagged with its version, for ``monai.bundle download``.

    The token is the one of ``hf auth login``, or HF_TOKEN.

    Args:
        name: bundle, packed or released before; the newest version that the folder lists.
        repo: repository on the hub, such as "my-group/swin_unet"; it is made if it does not exist.
        output_dir: folder that ``pack`` or ``release`` wrote to.
        private: whether a new repository is private.
        load: also run the bundle's code when verifying.
    """
    from scripts.zoo import push

    push.push(name, repo, output_dir, private, load)


@command_line.when_stopped("What was written is part of a pull request; remove the bundle's folder and start again.")
def submit(name: str, folder: str, weights_url: str = "") -> None:
    """Lay a trained bundle out as a pull request to MONAI's model zoo: its folder, a unit test, a line for the CI.

    Args:
        name: bundle, trained and evaluated before.
        folder: clone of the model zoo, or a folder for what is to be copied into one.
        weights_url: address of the folder from which weights above 25 MB will be fetched; the zoo's repository does
            not take them, and large_files.yml says where they are.
    """
    from scripts.zoo import submit

    submit.submit(name, folder, weights_url)


@command_line.when_stopped("The file of the weights is whole or as it was.")
def ship(bundle: str, name: str, checkpoint: str, scores: Sequence[str] | str = ()) -> None:
    """Put a training's weights into the repository: float16 safetensors in ``bundles/<bundle>/trained``, with a record.

    Evaluate that file (``--ckpt_path``) and give the same command again with the scores, which become part of it.

    Args:
        bundle: that was trained.
        name: of the weights, such as the data's; ``scripts.predict --trained`` knows them by it.
        checkpoint: ``model.pt`` of the training, with its record beside it.
        scores: files with results of the evaluations of the file that this command wrote, with commas between them.
    """
    from scripts.zoo import ship

    print(f"Wrote {ship.ship(bundle, name, checkpoint, scores)}.")


COMMANDS = {"pack": pack, "release": release, "verify": verify, "push": push, "submit": submit, "ship": ship}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.zoo")
