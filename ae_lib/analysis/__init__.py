"""Analyses of what the code is good for: one module per question of the later notebooks."""
