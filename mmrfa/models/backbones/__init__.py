"""Backbones with attention convolutions."""

from mmrfa.models.backbones.rfa_resnet import RFAResNet, RFAResNetV1c

__all__ = ['RFAResNet', 'RFAResNetV1c']
