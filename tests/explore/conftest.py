"""Folders to explore: what a fresh clone of the repository has, before anything ran in it."""

import shutil

import pytest
from repositories import ROOT

SHIPPED = ("data/prior", "data/encoder", "data/examples", "data/tuned", "studies/fashion-mnist-pretraining")


@pytest.fixture
def fresh_clone(tmp_path):
    """The default study with what git has of it: prior, shipped encoder, tuned records, examples; no splits, no encoders."""
    folder = tmp_path / "clone"
    for name in SHIPPED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    return folder
