"""Helpers shared by the models and the tools."""
