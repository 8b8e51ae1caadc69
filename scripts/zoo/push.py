"""Handing a packed bundle, with a model card, to MONAI's upload to the Hugging Face Hub."""

import json
import re
import tempfile
import zipfile
from pathlib import Path

import huggingface_hub
from monai.bundle import push_to_hf_hub

from networks.errors import UserError
from scripts.zoo.card import model_card
from scripts.zoo.pack import MODEL_INFO
from scripts.zoo.verify import check
from scripts.zoo.weights import read_record

OLD = ["*/*", "large_files.yml"]  # files of an earlier version, which would be none of the manifest's


def push(name: str, repo: str, output_dir: str = "dist/zoo", private: bool = True, load: bool = True) -> None:
    """Do what the command ``push`` of this tool describes, with the same arguments.

    Raises:
        UserError: an unpacked bundle, one that does not pass, no token, a version that the repository has, or the hub
            does not answer.
    """
    if str(repo).count("/") != 1:
        raise UserError(f"--repo is {repo!r}; expected the owner's name and the repository's, such as my-group/{name}.")
    index = Path(str(output_dir)) / MODEL_INFO
    listed = read_record(index) if index.is_file() else {}
    versions = [match[1] for stem in listed if (match := re.fullmatch(rf"{re.escape(name)}_v(\d[\d.]*)", stem))]
    if not versions:
        raise UserError(f"{index} does not list {name}; run 'python -m scripts.zoo pack {name}' first.")
    version = max(versions)  # MONAI compares them as texts, too
    path = index.with_name(f"{name}_v{version}.zip")
    if huggingface_hub.get_token() is None:
        raise UserError("There is no token for the Hugging Face Hub; run 'hf auth login' or set HF_TOKEN.")
    results = check(str(path), load=load)
    failed = [f"{check_name}: {detail}" for check_name, passed, detail in results if passed is False]
    if failed:
        raise UserError(f"{path} was not pushed, since it does not pass: {' '.join(failed)}")
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        bundle = Path(folder, name)
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        card = model_card(name, metadata, (bundle / "docs" / "README.md").read_text(encoding="utf-8"))
        try:
            hub = huggingface_hub.HfApi()
            hub.create_repo(repo, private=private, exist_ok=True)
            # a tag stays where it is, so what is pushed under it again would not be what it gives
            if version in [tag.name for tag in hub.list_repo_refs(repo).tags]:
                raise UserError(f"{repo} has the version {version} already; pack a newer one, or delete its tag there.")
            # before the version's tag; MONAI's own card, the documentation under a few fixed words, is left out
            hub.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo)
            url = push_to_hf_hub(
                repo, name, folder, private=private, version=version, ignore_patterns=["README.md"], delete_patterns=OLD
            )
        except UserError:
            raise
        except (
            Exception
        ) as error:  # of the HTTP library that the hub's client uses, another one in each of its versions
            reason = str(error).strip().splitlines() or [type(error).__name__]
            endpoint = huggingface_hub.constants.ENDPOINT
            raise UserError(f"{name} was not pushed to {repo} at {endpoint} ({reason[0]}).") from error
    print(f"Pushed {name} {version} to {url}.")
