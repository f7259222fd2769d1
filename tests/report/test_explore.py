"""The explorer on a tiny study folder: its numbers are those of the functions that stages use, its widgets redraw."""

import numpy as np
import pytest
import torch

from flashdiff.datasets.splits import split_ids
from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import Flash
from flashdiff.measures.quality import psnr
from flashdiff.report.explore import Explorer
from flashdiff.solvers import LDPS
from flashdiff.starts import PublishedStart


def test_look_agrees_with_the_functions_of_the_study(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", image=2, t=0.4, restore=True)
    x = torch.from_numpy(look.images["clean"])[None]
    measurement = measure(x, GaussianBlur(0.3, 3.0, 8), 0.4, 0.1, seed=0, ids=split_ids("test", 3)[-1:])
    encoder = explorer.encoders["gaussian_blur"]
    severity = encoder.infer(measurement.y)
    assert look.sigma_hat == pytest.approx(float(severity.sigma_hat), rel=1e-6)
    error = severity.z_hat - explorer.prior.encode(x)
    assert look.sbar == pytest.approx(float(error.std()), rel=1e-5)
    result = Flash(explorer.prior, encoder, LDPS(eta=0.05), PublishedStart(1.2), progress=False)(measurement)
    np.testing.assert_allclose(look.images["Flash"], result.images[0].numpy(), rtol=0, atol=1e-6)
    assert look.start == int(result.start)
    assert look.captions["Flash"] == f"{psnr(result.images, x)[0]:.1f} dB, {int(result.nfe)} NFE"


def test_path_keeps_the_image_and_changes_the_level(tiny_study):
    explorer = Explorer(tiny_study)
    path = explorer.look("random_inpainting", image=1, t=0.9).path
    assert path.t.tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())
    _, measured = explorer.measurement("random_inpainting", 1, 0.0)
    assert path.sigma_hat[0] == pytest.approx(
        float(explorer.encoders["random_inpainting"].infer(measured.y).sigma_hat), rel=1e-6
    )


def test_moving_a_slider_asks_for_the_new_level(tiny_study, monkeypatch):
    seen = []
    real = Explorer.look
    monkeypatch.setattr(Explorer, "look", lambda self, **values: seen.append(values) or real(self, **values))
    degradation, image, t, _restore, _output = Explorer(tiny_study).widget().children
    t.value, image.value, degradation.value = 0.8, 2, "random_inpainting"
    assert seen[-1] == {"degradation": "random_inpainting", "image": 2, "t": 0.8, "restore": False}
    assert len(seen) == 4  # once at first, once per change


def test_a_study_that_has_not_run_is_one_sentence(tiny_study):
    import shutil

    shutil.rmtree(tiny_study / "data/severity/random_inpainting")
    with pytest.raises(FileNotFoundError, match="random_inpainting: not there; run `make study` first"):
        Explorer(tiny_study)
