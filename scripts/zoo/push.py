"""Handing a packed bundle to MONAI's upload to the Hugging Face Hub."""

import tempfile
import zipfile
from pathlib import Path

import huggingface_hub
from monai.bundle import push_to_hf_hub

from scripts.catalog.bundles import BY_NAME
from scripts.zoo.verify import check


def push(name: str, repo: str, output_dir: str = "dist/zoo", private: bool = True, load: bool = True) -> None:
    """Verify a packed bundle and push it with ``monai.bundle push_to_hf_hub``, tagged with its version.

    The token is the one of ``hf auth login``, or HF_TOKEN.

    Args:
        name: bundle, packed before.
        repo: repository on the hub, such as "my-group/swin_unet"; it is made if it does not exist.
        output_dir: folder that ``pack`` wrote to.
        private: whether a new repository is private.
        load: also run the bundle's code when verifying.

    Raises:
        ValueError: an unknown or unpacked bundle, one that does not pass, no token, or the hub does not answer.
    """
    if name not in BY_NAME:
        raise ValueError(f"There is no bundle {name!r}; choose from {', '.join(BY_NAME)}.")
    if str(repo).count("/") != 1:
        raise ValueError(
            f"--repo is {repo!r}; expected the owner's name and the repository's, such as my-group/{name}."
        )
    version = BY_NAME[name].version
    path = Path(str(output_dir)) / f"{name}_v{version}.zip"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run 'python -m scripts.zoo pack {name}' first.")
    if huggingface_hub.get_token() is None:
        raise ValueError("There is no token for the Hugging Face Hub; run 'hf auth login' or set HF_TOKEN.")
    failed = [f"{check_name}: {detail}" for check_name, passed, detail in check(str(path), load=load) if not passed]
    if failed:
        raise ValueError(f"{path} was not pushed, since it does not pass: {' '.join(failed)}")
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
            raise ValueError(f"{name} was not pushed to {repo} at {endpoint} ({reason[0]}).") from error
    print(f"Pushed {name} {version} to {url}.")
