"""Data: sources of images, the scenario that divides their classes into tasks, and the tasks.

A `Source` reads a `Dataset`, which `open_dataset` shares between the runs of a machine. `make_tasks` divides it into
`Task`s, as a `Scenario` plans. Only the evaluator receives `Dataset.test`.
"""

from ccsi.data.augment import Augment
from ccsi.data.dataset import Dataset, Labelled, Source
from ccsi.data.digits import Digits
from ccsi.data.folder import Folder
from ccsi.data.medmnist import MedMNIST
from ccsi.data.npz import Npz
from ccsi.data.scenario import Scenario, Task, make_tasks
from ccsi.data.shared import open_dataset
from ccsi.data.torchvision_sets import TorchVision

__all__ = ["Augment", "Dataset", "Digits", "Folder", "Labelled", "MedMNIST", "Npz", "Scenario", "Source", "Task"]
__all__ += ["TorchVision", "make_tasks", "open_dataset"]
