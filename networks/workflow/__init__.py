"""What the bundles' configs call beyond MONAI and Ignite: data lists, checks, checkpoints, logs, scores."""

from networks.workflow.checkpoints import BestCheckpoint, LastCheckpoint, load_weights
from networks.workflow.checks import check_cases, check_dataset, check_intervals
from networks.workflow.data import case_list, check_lists, class_names, list_images, load_datalist, stored_window
from networks.workflow.errors import report_errors
from networks.workflow.evaluation import EpochLog, EventLog, OverlayWriter, ScoreWriter
from networks.workflow.ids import check_options, truth
from networks.workflow.loading import CaseDataset, LoadCased, balanced_weights
from networks.workflow.pictures import PictureReader
from networks.workflow.provenance import describe_cases
from networks.workflow.runs import KeepEarlier, evaluate, infer, train
from networks.workflow.saving import AtomicNibabelWriter, AtomicPILWriter
from networks.workflow.slices import SliceDataset, ZoomedSliceInferer
from networks.workflow.training import (
    AutocastInferer,
    EpochSeed,
    EvaluationProgress,
    Plateau,
    StopOnNan,
    TrainingProgress,
    default_workers,
)

__all__ = [
    "AtomicNibabelWriter",
    "AtomicPILWriter",
    "AutocastInferer",
    "BestCheckpoint",
    "CaseDataset",
    "EpochLog",
    "EpochSeed",
    "EvaluationProgress",
    "EventLog",
    "KeepEarlier",
    "LastCheckpoint",
    "LoadCased",
    "OverlayWriter",
    "PictureReader",
    "Plateau",
    "ScoreWriter",
    "SliceDataset",
    "StopOnNan",
    "TrainingProgress",
    "ZoomedSliceInferer",
    "balanced_weights",
    "case_list",
    "check_cases",
    "check_dataset",
    "check_intervals",
    "check_lists",
    "check_options",
    "class_names",
    "default_workers",
    "describe_cases",
    "evaluate",
    "infer",
    "list_images",
    "load_datalist",
    "load_weights",
    "report_errors",
    "stored_window",
    "train",
    "truth",
]
