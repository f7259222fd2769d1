"""Every figure of the reports, one call each on a data frame: from a notebook, for a paper.

Figures are as wide as a column (234 pt) or a page (487 pt) and come as :class:`matplotlib.figure.Figure`; :func:`save`
writes one as PNG, PDF and the CSV behind it. The example in each function's docstring runs in the folder of a finished
study, after::

    import numpy as np
    import pandas as pd
    from flashdiff import figures
    from flashdiff.report import headline, tables
    from flashdiff.study.records import read_json, read_rows, read_timings
"""

import importlib

_HOME = {
    "ablation": "ablation",
    "blind_levels": "blind",
    "budget_for_a_set": "allocation",
    "calibrated_start": "calibrated",
    "calibration": "encoder_figures",
    "confidence": "confidence",
    "degradation_levels": "image_figures",
    "error_statistics": "encoder_figures",
    "encoder_choices": "robustness",
    "frechet": "frontier_figures",
    "frontier": "frontier_figures",
    "frontier_of_solvers": "pair_figures",
    "gain_by_severity": "frontier_figures",
    "gain_over_fixed": "frontier_figures",
    "gains_of_pairs": "pair_figures",
    "image_grid": "image_figures",
    "intervals_held": "confidence",
    "learning_curve": "encoder_figures",
    "matched_pairs": "image_figures",
    "ordering_by_pair": "encoder_figures",
    "noise_robustness": "robustness",
    "outliers": "image_figures",
    "overview": "example_figures",
    "posterior_spread": "spread",
    "quality_against_steps": "comparison_figures",
    "quality_of_methods": "comparison_figures",
    "reconstructions": "image_figures",
    "save": "style",
    "severity_against_level": "encoder_figures",
    "severity_against_level_per_image": "encoder_figures",
    "severity_shares": "encoder_figures",
    "shift_roc": "shift",
    "start_distribution": "comparison_figures",
    "start_choices": "robustness",
    "starts_by_severity": "comparison_figures",
    "starts_of_images": "example_figures",
    "trajectories": "example_figures",
    "unseen_classes": "robustness",
    "wall_clock": "comparison_figures",
}
"""Figure -> the module of flashdiff.report that draws it; loaded on first use, so that the import is light."""
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"flashdiff.report.{_HOME[name]}"), name)
    raise AttributeError(f"module 'flashdiff.figures' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")


def __dir__():
    return sorted([*globals(), *_HOME])
