"""Losses and discriminators of public codebases: their shapes and their own formulas, restated from their sources."""
