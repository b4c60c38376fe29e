"""What several operators share; each file holds one idea."""
