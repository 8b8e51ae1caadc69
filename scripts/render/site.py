"""The pages of the documentation's site that are not files of ``docs``: MkDocs' plugin gen-files runs this.

The front page is the README, every bundle has its own page, and the public list of networks is the API's reference.
"""

import re
from pathlib import Path

import mkdocs_gen_files

from scripts.catalog.bundles import BUNDLES
from scripts.catalog.classification import CLASSIFIERS

ROOT = Path(__file__).resolve().parent.parent.parent
GALLERY = {
    "images/super1.jpg": "Precipitates of a nickel superalloy: truth and prediction",
    "images/ohif.png": "A bundle in OHIF, served by MONAI Label",
}


def write(name: str, text: str) -> None:
    with mkdocs_gen_files.open(name, "w", encoding="utf-8") as file:
        file.write(text)


def front_page() -> str:
    """The README with links that hold on the site, and pictures before its first section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(bundles/(\w+)/docs/README\.md\)", r"](bundles/\1.md)", text)
    text = re.sub(r"\]\(docs/", "](", text)
    text = text.replace("](CONTRIBUTING.md)", "](contributing.md)")
    cells = [
        f"<figure markdown>\n![{title}]({path})\n<figcaption>{title}</figcaption>\n</figure>\n"
        for path, title in GALLERY.items()
    ]
    return text.replace("\n## ", f"\n{chr(10).join(cells)}\n## ", 1)


def api_page() -> str:
    """All that ``networks`` offers, from the docstrings."""
    names = sorted(bundle.network for bundle in BUNDLES)
    parts = ["# API", "Every network takes (B, in_channels, H, W) and returns logits (B, out_channels, H, W)."]
    parts += [f"::: networks.{_module(name)}.{name}" for name in names]
    parts += ["::: networks.classifier.Classifier", "::: networks.classifier.MaskedImageModel"]
    parts += ["::: networks.pretrained.load", "::: networks.pretrained.load_all"]
    return "\n\n".join(parts) + "\n"


def _module(name: str) -> str:
    import networks

    return getattr(networks, name).__module__.removeprefix("networks.")


write("index.md", front_page())
write("contributing.md", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("))
write("api.md", api_page())
every = [*BUNDLES, *CLASSIFIERS]
for bundle in every:
    page = (ROOT / "bundles" / bundle.name / "docs" / "README.md").read_text(encoding="utf-8")
    write(f"bundles/{bundle.name}.md", page)
write(
    "bundles/index.md",
    "# Bundles\n\n" + "\n".join(f"- [{b.title}]({b.name}.md): {b.description}" for b in every) + "\n",
)
