"""Checkpoints of other networks as starting points of ours."""
