"""Starting a network from weights that were trained elsewhere."""
