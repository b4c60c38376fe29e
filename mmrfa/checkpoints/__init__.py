"""Checkpoint files: read without running code, fitted, named, written."""
