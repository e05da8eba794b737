"""Data: sources of images, the scenario that divides their classes into tasks, and the tasks.

A source reads uint8 images in three splits and converts them to the model's input size (`Source.load`); `opened` shares
them between the runs of a machine. A `Scenario` gives the order of classes, and `make_tasks` divides a `Dataset` into
`Task`s on the training device. Only the evaluator is handed `Dataset.test`.
"""

from ccsi.data.augment import Augment
from ccsi.data.dataset import Dataset, Labelled, Source
from ccsi.data.digits import Digits
from ccsi.data.folder import Folder
from ccsi.data.medmnist import MedMNIST
from ccsi.data.npz import Npz
from ccsi.data.scenario import Scenario, Task, make_tasks
from ccsi.data.shared import opened
from ccsi.data.torchvision_sets import TorchVision

__all__ = [
    "Augment",
    "Dataset",
    "Digits",
    "Folder",
    "Labelled",
    "MedMNIST",
    "Npz",
    "Scenario",
    "Source",
    "Task",
    "TorchVision",
    "make_tasks",
    "opened",
]
