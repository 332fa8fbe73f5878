"""Trunks of the models, and where their ImageNet weights come from."""

from dgseg.models.backbones.pretrained import pretrained_backbone

__all__ = ["pretrained_backbone"]
