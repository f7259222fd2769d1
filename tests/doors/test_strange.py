"""Strange images are named: flags are those of the thresholds and the misfit, in both commands, and there are none without a table."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff import cli
from flashdiff.commands.strange import Watch
from flashdiff.commands.studies import Place
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study.schema import load
from flashdiff.trust.blind import fit


@pytest.fixture
def images(tmp_path):
    draw = np.random.default_rng(0)
    for k, name in enumerate("abc"):
        pixels = draw.integers(0, 256, (16, 16), dtype=np.uint8) // (4 * k + 1)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


def watched(folder, images, allowed):
    """The degradation of the tiny study, with a table whose limit flags all but the ``allowed`` best fitting of the images; the
    names that it flags."""
    study = load(folder / "params.yaml")
    pair, degradation = next((name, p.degradation) for name, p in study.pairs.items())
    place = Place.find(str(folder))
    encoder = place.encoder(degradation)[0]
    noise_std = place.entries[degradation]["noise_std"]
    from flashdiff.degradations import build

    operator, _ = build(place.entries[degradation])
    misfits = {}
    for path in sorted(images.glob("*.png")):
        y = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 127.5 - 1)[None, None]
        prior = Prior.from_pretrained(folder / "data/prior")
        decoded = prior.decode(SeverityEncoder.from_pretrained(encoder).infer(y).z_hat).clamp(-1, 1)
        misfits[path.name] = float(fit(y, decoded, operator, noise_std, np.arange(1)).misfit) / (noise_std or 1.0)
    ordered = sorted(misfits.values())
    limit = (ordered[allowed - 1] + ordered[allowed]) / 2 if allowed < len(ordered) else ordered[-1] + 1
    limits = {"alarm": 0.05, "edges": [], "limits": [limit]}
    table = {"degradation": degradation, "noise_std": noise_std, "encoders": {"own": limits, "shipped": limits}}
    (folder / "data/shift").mkdir(parents=True, exist_ok=True)
    (folder / f"data/shift/{pair}.json").write_text(json.dumps(table))
    return degradation, {name for name, misfit in misfits.items() if misfit > limit}


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_severity_flags_what_fits_worse_than_the_limit(allowed, tiny_study, images, capsys):
    degradation, expected = watched(tiny_study, images, allowed)
    cli.main(["severity", str(images), "--degradation", degradation, "--study", str(tiny_study), "--json"])
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert {row["file"] for row in rows if row["flagged"]} == expected and len(expected) == 3 - allowed
    assert (f"{len(expected)} of 3 images (column flagged)" in err) == bool(expected)


def test_restore_has_the_flag_in_its_report(tiny_study, images, tmp_path, capsys):
    degradation, expected = watched(tiny_study, images, 2)
    out = tmp_path / "out"
    cli.main(["restore", str(images), "--degradation", degradation, "--study", str(tiny_study), "--out", str(out)])
    with open(out / "report.csv") as file:
        flags = {row["file"]: row["flagged"] for row in csv.DictReader(file)}
    assert {name for name, flag in flags.items() if flag == "yes"} == expected
    assert set(flags.values()) == {"yes", "no"}
    assert "1 of 3 images (column flagged)" in capsys.readouterr().err


def test_without_a_table_or_with_another_noise_nobody_is_flagged(tiny_study, images, capsys):
    degradation = next(iter(load(tiny_study / "params.yaml").pairs.values())).degradation
    cli.main(["severity", str(images), "--degradation", degradation, "--study", str(tiny_study), "--json"])
    assert {row["flagged"] for row in json.loads(capsys.readouterr().out)} == {None}
    watched(tiny_study, images, 1)
    place = Place.find(str(tiny_study))
    encoder = place.encoder(degradation)[0]
    assert Watch.of(place, degradation, encoder) is not None
    assert Watch.of(place, degradation, encoder, 0.77) is None
    assert Watch.of(place, None, encoder) is None
