"""Losses and discriminators of public codebases: their shapes and formulas, restated from their sources."""
