"""From finished runs and published numbers to tables."""
