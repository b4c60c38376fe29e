"""Blocks for ``plugins=[...]`` of ResNets."""

from mmrfa.models.plugins.attention_block import (
    AttentionBlock,
    AWConvBlock,
    CAConvBlock,
    CAMConvBlock,
    CBAMConvBlock,
    RFAConvBlock,
    RFCAConvBlock,
    RFCBAMConvBlock,
)

__all__ = [
    'AttentionBlock',
    'AWConvBlock',
    'CAConvBlock',
    'CAMConvBlock',
    'CBAMConvBlock',
    'RFAConvBlock',
    'RFCAConvBlock',
    'RFCBAMConvBlock',
]
