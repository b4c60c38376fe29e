"""A trained network at work: predicting, exporting, running what was."""
