"""What the bundles' configs call beyond MONAI and Ignite: data lists, checks, checkpoints, logs, scores."""

from networks.lazy import public_list

PUBLIC = {  # name: its module, which is imported when the name is first asked for
    "AtomicNibabelWriter": "saving",
    "AtomicPILWriter": "saving",
    "AutocastInferer": "training",
    "BestCheckpoint": "checkpoints",
    "EpochLog": "evaluation",
    "EpochSeed": "training",
    "EvaluationProgress": "training",
    "LastCheckpoint": "checkpoints",
    "OverlayWriter": "evaluation",
    "Plateau": "training",
    "ScoreWriter": "evaluation",
    "SliceDataset": "slices",
    "StopOnNan": "training",
    "TrainingProgress": "training",
    "ZoomedSliceInferer": "slices",
    "balanced_weights": "data",
    "case_list": "data",
    "check_cases": "checks",
    "check_dataset": "checks",
    "check_intervals": "checks",
    "check_options": "ids",
    "class_names": "data",
    "describe_cases": "provenance",
    "list_images": "data",
    "load_datalist": "data",
    "load_weights": "checkpoints",
    "put_in_place": "saving",
    "report_errors": "errors",
    "truth": "ids",
}

__getattr__, __dir__, __all__ = public_list(__name__, PUBLIC)
