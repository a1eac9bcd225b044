"""Executes the notebooks and publishes their results; no notebook imports it, but that of the benchmark."""
