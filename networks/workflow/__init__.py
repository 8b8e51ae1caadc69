"""What the bundles' configs call beyond MONAI and Ignite: data lists, checks, checkpoints, logs, scores."""

from networks.workflow.checkpoints import BestCheckpoint, FinalCheckpoint, LastCheckpoint, load_weights
from networks.workflow.checks import check_cases, check_dataset, check_intervals
from networks.workflow.data import balanced_weights, case_list, class_names, list_images, load_datalist
from networks.workflow.errors import report_errors
from networks.workflow.evaluation import EpochLog, OverlayWriter, ScoreWriter
from networks.workflow.ids import check_options, truth
from networks.workflow.loading import StrictCheckpointLoader
from networks.workflow.provenance import describe_cases
from networks.workflow.saving import put_in_place, write_atomically
from networks.workflow.slices import SliceDataset, ZoomedSliceInferer
from networks.workflow.training import (
    AutocastInferer,
    EpochSeed,
    EvaluationProgress,
    Plateau,
    StopOnNan,
    TrainingProgress,
)

__all__ = [
    "AutocastInferer",
    "BestCheckpoint",
    "EpochLog",
    "EpochSeed",
    "EvaluationProgress",
    "FinalCheckpoint",
    "LastCheckpoint",
    "OverlayWriter",
    "Plateau",
    "ScoreWriter",
    "SliceDataset",
    "StopOnNan",
    "StrictCheckpointLoader",
    "TrainingProgress",
    "ZoomedSliceInferer",
    "balanced_weights",
    "case_list",
    "check_cases",
    "check_dataset",
    "check_intervals",
    "check_options",
    "class_names",
    "describe_cases",
    "list_images",
    "load_datalist",
    "load_weights",
    "put_in_place",
    "report_errors",
    "truth",
    "write_atomically",
]
