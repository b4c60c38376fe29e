"""Blocks for ``plugins=[...]`` of ResNets."""

from mmrfa.models.plugins.attention_block import AttentionBlock

__all__ = ['AttentionBlock']
