"""Scores, tables and pictures of what a classifier says of whole pictures."""

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather
from scipy.stats import binomtest

from networks.errors import UserError
from networks.workflow.class_figures import confusion_figure, misclassified_figure, save_figure
from networks.workflow.evaluation import DECIMALS, write_csv
from networks.workflow.files import file_hash
from networks.workflow.labelled_pictures import picture_root
from networks.workflow.records import Record, make_records, write_records
from networks.workflow.scores import Score
from networks.workflow.state import state_of
from networks.workflow.statistics import ALL_CLASSES, CONFIDENCE, markdown, summarise, tables

logger = logging.getLogger(__name__)
PROTOCOL = "strict"
TOP = 5
RESULTS, CLASSES, CONFUSION, MISSED = "results_strict.jsonl", "classes.csv", "confusion", "misclassified.png"
Finding = dict[str, Any]


def per_batch(batch_size: int, accumulation_steps: int) -> int:
    """Pictures that are computed at once, where several batches make one step.

    Raises:
        UserError: the steps do not divide the pictures.
    """
    if batch_size % accumulation_steps:
        raise UserError(
            f"batch_size is {batch_size}, which {accumulation_steps} batches of one size cannot make up; give "
            "--accumulation_steps a number that divides it."
        )
    return batch_size // accumulation_steps


def answers_and_labels(output: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What Ignite's metrics take, (B, classes) and (B,), of a MONAI engine's output."""
    answers = torch.stack([torch.as_tensor(item["pred"]) for item in output])
    return answers, torch.stack([torch.as_tensor(item["label"]) for item in output]).to(answers.device)


class _Findings(ABC):
    """Keeps what was found of every picture; `attach` to an evaluator with ``name`` and ``label`` in its items."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose items have a ``name``."""
        engine.add_event_handler(Events.STARTED, self._lines.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._find)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _find(self, engine: Engine) -> None:
        state = state_of(engine)
        for item, output in zip(state.batch, state.output, strict=True):
            finding = {"case": item["name"], **self.finding(item, torch.as_tensor(output["pred"]).cpu())}
            self._lines.append(json.dumps(finding))

    @abstractmethod
    def finding(self, item: dict[str, Any], probabilities: torch.Tensor) -> Finding:
        """What to keep of a picture, as plain values."""

    def findings(self) -> list[Finding]:
        """Those of all processes, by the pictures' names; every process has to ask."""
        lines = string_list_all_gather(self._lines) if idist.get_world_size() > 1 else self._lines
        return sorted(map(json.loads, lines), key=lambda finding: finding["case"])

    @abstractmethod
    def __call__(self, engine: Engine) -> None:
        """Write the files."""


class ClassScores(_Findings):
    """Score every picture and write what a person wants to see of a classifier.

    ``results_strict.jsonl`` are records of ``top1`` and, of more than five classes, ``top5``: 1 where the truth is the
    most probable class, or one of the five, else 0; each with truth, answer and the answer's probability.
    ``classes.csv`` has the share of right answers per class with Wilson's interval, ``confusion.csv`` and ``.png`` what
    is taken for what, and ``misclassified.png`` the wrong answers, the surest first. The means go to the log with their
    bootstrap intervals.

    Args:
        save_dir: folder of the files.
        class_names: names of the classes by number.
        dataset_dir: of the data set.
        model, split, seed: as in the records.
        window: of 16-bit pictures, as the network sees them.
    """

    def __init__(
        self,
        save_dir: str,
        class_names: Sequence[str],
        dataset_dir: str,
        model: str,
        split: str,
        seed: int,
        window: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.save_dir, self.class_names, self.root = Path(save_dir), list(class_names), picture_root(dataset_dir)
        self.ids = {"dataset": self.root.resolve().name, "model": model, "split": split, "seed": seed}

    def finding(self, item: dict[str, Any], probabilities: torch.Tensor) -> Finding:
        """Truth, answer, and at which place the truth comes."""
        truth, answer = int(item["label"]), int(probabilities.argmax())
        place = int((probabilities > probabilities[truth]).sum())
        # of equals the first is the answer
        place += int((probabilities[:truth] == probabilities[truth]).sum())
        return {"truth": truth, "answer": answer, "probability": float(probabilities[answer]), "place": place}

    def __call__(self, engine: Engine) -> None:
        """Write the files; every process calls it, the first writes."""
        found = self.findings()
        loaded = getattr(engine.state, "checkpoint", None)
        records = self._records(found, file_hash(loaded) if loaded else None)
        scored = tables(records)
        engine.state.metrics |= {table.metric: summarise(table)[-1].mean for table in scored}
        if idist.get_rank() > 0:
            return
        write_records(self.save_dir / RESULTS, records)
        write_csv(self.save_dir / CLASSES, self._class_rows(found))
        counts = self._confusion(found)
        rows = [
            {"truth": name, **dict(zip(self.class_names, row, strict=True))}
            for name, row in zip(self.class_names, counts.tolist(), strict=True)
        ]
        write_csv(self.save_dir / f"{CONFUSION}.csv", rows)
        save_figure(confusion_figure(counts.numpy(), self.class_names), self.save_dir / f"{CONFUSION}.png")
        wrong = sorted((f for f in found if f["place"] > 0), key=lambda f: -f["probability"])
        figure = misclassified_figure(
            [
                (self.root / f["case"], self.class_names[f["truth"]], self.class_names[f["answer"]], f["probability"])
                for f in wrong
            ],
            self.window,
        )
        save_figure(figure, self.save_dir / MISSED)
        logger.info("Wrote %s.\n\n%s\n", self.save_dir / RESULTS, markdown(scored))

    def _records(self, found: Sequence[Finding], checkpoint: str | None) -> list[Record]:
        ids = {**self.ids, "protocol": PROTOCOL, "prediction": "labels", "checkpoint": checkpoint}
        records = []
        for f in found:
            scores = [Score("top1", "", None, float(f["place"] == 0))]
            if len(self.class_names) > TOP:
                scores.append(Score(f"top{TOP}", "", None, float(f["place"] < TOP)))
            more = {
                "truth": self.class_names[f["truth"]],
                "answer": self.class_names[f["answer"]],
                "probability": round(f["probability"], DECIMALS),
            }
            records += [r | more for r in make_records(scores, self.class_names, case=f["case"], **ids)]
        return records

    def _class_rows(self, found: Sequence[Finding]) -> list[dict[str, Any]]:
        pictures = Counter(f["truth"] for f in found)
        right = Counter(f["truth"] for f in found if f["place"] == 0)
        counts = [(name, right[i], pictures[i]) for i, name in enumerate(self.class_names)]
        rows, columns = [], ("top1", "low", "high")
        for name, correct, number in [*counts, (ALL_CLASSES, right.total(), len(found))]:
            row: dict[str, Any] = {"class": name, "pictures": number, "right": correct}
            if number:
                interval = binomtest(correct, number).proportion_ci(CONFIDENCE, method="wilson")
                values = (correct / number, interval.low, interval.high)
                row |= {key: f"{value:.{DECIMALS}f}" for key, value in zip(columns, values, strict=True)}
            rows.append(row)
        return rows

    def _confusion(self, found: Sequence[Finding]) -> torch.Tensor:
        """Pictures (classes, classes) by truth and answer."""
        number = len(self.class_names)
        pairs = torch.tensor([f["truth"] * number + f["answer"] for f in found], dtype=torch.long)
        return torch.bincount(pairs, minlength=number**2).view(number, number)


class ClassTable(_Findings):
    """Write a CSV file with the most probable class of every picture and the probabilities of all.

    Args:
        path: the file.
        class_names: names of the classes by number.
    """

    def __init__(self, path: str, class_names: Sequence[str]) -> None:
        super().__init__()
        self.path, self.class_names = Path(path), list(class_names)

    def finding(self, item: dict[str, Any], probabilities: torch.Tensor) -> Finding:
        """The probabilities of the classes."""
        if len(probabilities) != len(self.class_names):
            raise UserError(
                f"The network tells {len(probabilities)} classes apart, but {len(self.class_names)} are named; keep "
                "model.json of the training beside the weights, or give --class_names as many."
            )
        return {"probabilities": probabilities.tolist()}

    def __call__(self, engine: Engine) -> None:
        """Write the file; every process calls it, the first writes."""
        rows = []
        for found in self.findings():
            probabilities = found["probabilities"]
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            each = {
                f"probability of {name}": f"{value:.{DECIMALS}f}"
                for name, value in zip(self.class_names, probabilities, strict=True)
            }
            answer = {"class": self.class_names[best], "probability": f"{probabilities[best]:.{DECIMALS}f}"}
            rows.append({"image": found["case"], **answer, **each})
        if idist.get_rank() == 0:
            write_csv(self.path, rows)
            logger.info("Wrote %d pictures to %s.", len(rows), self.path)
