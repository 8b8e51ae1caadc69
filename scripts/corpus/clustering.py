"""Unlabelled pictures sorted into classes: a network's features, principal components, k-means.

The line of work of CS-UNet (https://arxiv.org/abs/2308.13917), where VGG-16's features sorted micrographs into classes
to be pretrained on.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.files import write_json
from scripts.corpus.features import SIZE, Features, bundle_features, timm_features
from scripts.corpus.index import Micrograph, classes_of
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import Tile, sample, write_sheet
from scripts.corpus.steps import Done, Step, step

SILHOUETTE_SAMPLE = 3000  # pictures; the time grows with the square of their number
STARTS = 10  # of k-means, of which the best counts


@dataclass(frozen=True)
class Clusters:
    """Pictures in clusters.

    Attributes:
        numbers: of every picture, (n,), 0 for the largest cluster.
        distances: of every picture from its cluster's centre, (n,).
        silhouette: mean over the pictures, -1 to 1.
    """

    numbers: np.ndarray
    distances: np.ndarray
    silhouette: float

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.numbers.max()) + 1


def cluster(
    source: str,
    output_dir: str,
    network: str | None = None,
    weights: str | None = None,
    bundle: str | None = None,
    ckpt_path: str | None = None,
    trained: str | None = None,
    size: int | None = None,
    clusters: int | None = None,
    max_clusters: int = 30,
    components: int = 50,
    seed: int = 0,
    device: str = "cpu",
    layout: str = "auto",
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, an option out of range, weights that do not fit, or a folder of other settings.
        SystemExit: pictures could not be used.
    """
    if sum(value is not None for value in (network, bundle, trained)) != 1:
        raise UserError("Give one of --network NAME (of timm), --bundle NAME and --trained NAME.")
    if (
        (clusters is not None and clusters < 2)
        or max_clusters < 2
        or components < 1
        or not (size is None or 32 <= size <= 2048)
    ):
        raise UserError("Expected at least 2 clusters, at least 1 component, and a size of 32 to 2048 pixels.")
    micrographs = corpus_beside(source, output_dir, layout)
    if network is not None:
        features = timm_features(network, weights, size or SIZE, device)
    else:
        features = bundle_features(str(bundle), ckpt_path, trained, size, device)
    settings = {**features.about, "clusters": clusters, "max_clusters": max_clusters, "components": components}
    with step(output_dir, "cluster", {**settings, "seed": seed}) as work:
        kept, found = _all_features(work, micrographs, features)
        if len(kept) <= max(clusters or 2, 2):
            raise UserError(
                f"{source} has {len(kept)} pictures that can be read, too few for {clusters or 2} clusters."
            )
        points = reduced(found, components, seed)
        tried = {}
        for k in tqdm(_counts(clusters, max_clusters, kept), desc="Clustering", unit="number"):
            tried[k] = k_means(points, k, seed)
        wanted = {k: c for k, c in tried.items() if clusters is not None or k <= max_clusters}
        best = tried[clusters] if clusters is not None else max(wanted.values(), key=lambda c: c.silhouette)
        kinds = [micrograph.kind for micrograph in kept]
        records = _records(features.about, points, kinds, tried, best.count)
        write_json(work.folder / "clusters.json", {"records": records})
        _write_sheets(work.folder, kept, best)
        _tell(records, best.count)
        work.finish([_labelled(m, int(n)) for m, n in zip(kept, best.numbers, strict=True)])


def reduced(features: np.ndarray, components: int, seed: int = 0) -> np.ndarray:
    """Principal components of features (n, features), each of which is brought to mean 0 and deviation 1 before.

    Args:
        features: of the pictures.
        components: how many to keep at most.
        seed: of the solver.

    Returns:
        (n, components).
    """
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0))[:, deviation > 0] / deviation[deviation > 0]
    if not scaled.shape[1]:
        raise UserError("The network says the same of all pictures; they are equal, or its weights are none.")
    return PCA(min(components, *scaled.shape), random_state=seed).fit_transform(scaled)


def k_means(points: np.ndarray, count: int, seed: int = 0) -> Clusters:
    """Clusters of points (n, dimensions), numbered from the largest to the smallest."""
    found = KMeans(count, n_init=STARTS, random_state=seed).fit(points)
    order = np.argsort(-np.bincount(found.labels_, minlength=count), kind="stable")
    numbers = np.argsort(order)[found.labels_]
    distances = np.linalg.norm(points - found.cluster_centers_[found.labels_], axis=1)
    some = SILHOUETTE_SAMPLE if len(points) > SILHOUETTE_SAMPLE else None
    value = silhouette_score(points, numbers, sample_size=some, random_state=seed)
    return Clusters(numbers, distances, float(value))


def purity(kinds: Sequence[str], numbers: np.ndarray) -> float:
    """Share of pictures that are of the most frequent class of their cluster."""
    found = (Counter(k for k, n in zip(kinds, numbers, strict=True) if n == m) for m in np.unique(numbers))
    return sum(max(counts.values()) for counts in found) / len(kinds)


def _counts(clusters: int | None, most: int, kept: Sequence[Micrograph]) -> list[int]:
    """The numbers of clusters to try: the one asked for or all up to ``most``, and that of the given classes."""
    counts = [clusters] if clusters is not None else list(range(2, most + 1))
    given = len(classes_of(kept))
    counts = sorted({*counts, *([given] if given > 1 else [])})
    return [k for k in counts if k < len(kept)]


def _all_features(
    work: Step, micrographs: Sequence[Micrograph], features: Features
) -> tuple[list[Micrograph], np.ndarray]:
    """Every picture that can be read, and its features; the journal keeps them, so that a stopped step goes on."""

    def one(micrograph: Micrograph) -> Done:
        values = features([micrograph.image])[0].astype("<f4")
        if not np.isfinite(values).all():
            raise UserError(f"The network says nothing of {micrograph.image} (NaN or infinite); check its weights.")
        return [], {"features": base64.b64encode(values.tobytes()).decode()}

    found = work.run(micrographs, one, "Features")
    rows = [np.frombuffer(base64.b64decode(about["features"]), "<f4") for _, (_, about) in found]
    return [micrograph for micrograph, _ in found], np.array(rows)


def _records(
    about: dict[str, Any], points: np.ndarray, kinds: Sequence[str], tried: dict[int, Clusters], best: int
) -> list[dict[str, Any]]:
    """A record per number of clusters; agreement with the given classes, of the pictures that have one."""
    given = [i for i, kind in enumerate(kinds) if kind]
    truth = [kinds[i] for i in given]
    labelled = len(set(truth)) > 1
    records = []
    for count, found in tried.items():
        record = {
            **about,
            "pictures": len(points),
            "labelled": len(given),
            "classes": len(set(truth)) if labelled else None,
            "components": points.shape[1],
            "clusters": count,
            "chosen": count == best,
            "silhouette": found.silhouette,
        }
        if labelled:
            record["adjusted_rand_index"] = float(adjusted_rand_score(truth, found.numbers[given]))
            record["purity"] = purity(truth, found.numbers[given])
        records.append(record)
    return records


def _labelled(micrograph: Micrograph, number: int) -> Micrograph:
    """The picture with its cluster, which is its class where it had none."""
    name = f"cluster_{number + 1:02d}"
    return replace(micrograph, kind=micrograph.kind or name, more={**micrograph.more, "cluster": name})


def _write_sheets(folder: Path, micrographs: Sequence[Micrograph], found: Clusters) -> None:
    """Per cluster its pictures, those nearest to the centre first; and one sheet with a row per cluster."""
    for old in folder.glob("sheet*.png"):
        old.unlink()
    rows = []
    for number in range(found.count):
        (members,) = np.nonzero(found.numbers == number)
        members = members[np.argsort(found.distances[members])]
        tiles = [Tile(micrographs[i].image, micrographs[i].kind) for i in members[sample(len(members))]]
        rows += [*tiles[:8], *[Tile(np.full((4, 4, 1), 255, np.uint8))] * (8 - min(len(tiles), 8))]
        title = f"cluster_{number + 1:02d}: {len(members)} pictures, from the centre outwards"
        write_sheet(folder / f"sheet_cluster_{number + 1:02d}.png", tiles, title)
    write_sheet(folder / "sheet.png", rows, f"{found.count} clusters, a row each, from the centre outwards", columns=8)


def _tell(records: Sequence[dict[str, Any]], best: int) -> None:
    for record in records:
        if record["clusters"] == best or record["clusters"] == record["classes"]:
            text = f"{record['clusters']} clusters: silhouette {record['silhouette']:.3f}"
            if record["classes"]:
                text += (
                    f", against the {record['classes']} given classes of {record['labelled']} pictures adjusted Rand "
                    f"index {record['adjusted_rand_index']:.3f}, purity {record['purity']:.3f}"
                )
            print(text)
