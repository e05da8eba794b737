"""Continual Normalization, backbones, and the growing cosine classifier."""

from ccsi.models.backbones import Backbone, ccsi_large, ccsi_small, resnet
from ccsi.models.net import IncrementalNet, imprinted_prototypes, random_prototypes
from ccsi.models.norm import ContinualNorm2d, Tap

__all__ = ["Backbone", "ContinualNorm2d", "IncrementalNet", "Tap", "ccsi_large", "ccsi_small", "imprinted_prototypes"]
__all__ += ["random_prototypes", "resnet"]
