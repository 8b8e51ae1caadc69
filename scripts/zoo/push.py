"""Handing a packed bundle to MONAI's upload to the Hugging Face Hub."""

import tempfile
import zipfile
from pathlib import Path

import huggingface_hub
from monai.bundle import push_to_hf_hub

from networks.errors import UserError
from scripts.catalog.bundles import BY_NAME
from scripts.zoo.verify import check


def push(name: str, repo: str, output_dir: str = "dist/zoo", private: bool = True, load: bool = True) -> None:
    """Do what the command ``push`` of this tool describes, with the same arguments.

    Raises:
        UserError: an unknown or unpacked bundle, one that does not pass, no token, or the hub does not answer.
    """
    if name not in BY_NAME:
        raise UserError(f"There is no bundle {name!r}; choose from {', '.join(BY_NAME)}.")
    if str(repo).count("/") != 1:
        raise UserError(f"--repo is {repo!r}; expected the owner's name and the repository's, such as my-group/{name}.")
    version = BY_NAME[name].version
    path = Path(str(output_dir)) / f"{name}_v{version}.zip"
    if not path.is_file():
        raise UserError(f"{path} does not exist; run 'python -m scripts.zoo pack {name}' first.")
    if huggingface_hub.get_token() is None:
        raise UserError("There is no token for the Hugging Face Hub; run 'hf auth login' or set HF_TOKEN.")
    results = check(str(path), load=load)
    failed = [f"{check_name}: {detail}" for check_name, passed, detail in results if passed is False]
    if failed:
        raise UserError(f"{path} was not pushed, since it does not pass: {' '.join(failed)}")
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        try:
            url = push_to_hf_hub(repo=repo, name=name, bundle_dir=folder, private=private, version=version)
        except (
            Exception
        ) as error:  # of the HTTP library that the hub's client uses, another one in each of its versions
            reason = str(error).strip().splitlines() or [type(error).__name__]
            endpoint = huggingface_hub.constants.ENDPOINT
            raise UserError(f"{name} was not pushed to {repo} at {endpoint} ({reason[0]}).") from error
    print(f"Pushed {name} {version} to {url}.")
