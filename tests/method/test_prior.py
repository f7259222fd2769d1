"""The prior: schedule, the reverse step against the closed-form posterior, round trips through disk."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from flashdiff.prior import Prior
from flashdiff.weights.compvis import load_compvis_prior
from flashdiff.weights.published_prior import take_prior

COMPVIS = Path(__file__).parents[1] / "data/compvis-vq"


def test_index_minus_one_is_clean(tiny_prior):
    assert float(tiny_prior.signal(torch.tensor([-1]))) == 1.0
    assert bool((tiny_prior.abar[1:-1] < tiny_prior.abar[:-2]).all())


def test_schedule_is_the_published_one(tiny_prior):
    """Scaled-linear betas from 0.0015 to 0.0195: sqrt(beta) is linear (computed here by hand)."""
    n = tiny_prior.n_steps
    betas = [(0.0015**0.5 + k / (n - 1) * (0.0195**0.5 - 0.0015**0.5)) ** 2 for k in range(n)]
    expected = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    torch.testing.assert_close(tiny_prior.abar[:-1], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stride", [1, 7])
def test_ancestral_step_has_the_posterior_mean_and_variance(tiny_prior, stride):
    """q(z_prev | z_i, z0) of the Gaussian chain, from its textbook product form (Ho et al. 2020, Eq. 6-7)."""
    i = torch.tensor([25, 12])
    z, z0 = torch.randn(2, 4, 4, 4, dtype=torch.float64), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    abar, before = tiny_prior.signal(i)[:, None, None, None], tiny_prior.signal(i - stride)[:, None, None, None]
    beta = 1 - abar / before
    mean = before.sqrt() * beta / (1 - abar) * z0 + (abar / before).sqrt() * (1 - before) / (1 - abar) * z
    variance = (1 - before) / (1 - abar) * beta
    step = [tiny_prior.reverse(z, z0, i, i - stride, noise) for noise in (torch.zeros_like(z), torch.ones_like(z))]
    torch.testing.assert_close(step[0], mean)
    torch.testing.assert_close(step[1] - step[0], variance.sqrt().expand_as(z))


def test_ddim_step_keeps_the_implied_noise(tiny_prior):
    i, i_prev = torch.tensor([30]), torch.tensor([11])
    z0, eps = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    a, b = tiny_prior.signal(i), tiny_prior.signal(i_prev)
    moved = tiny_prior.reverse(
        a.sqrt() * z0 + (1 - a).sqrt() * eps, z0, i, i_prev, torch.ones_like(z0), stochasticity=0.0
    )
    torch.testing.assert_close(moved, b.sqrt() * z0 + (1 - b).sqrt() * eps)


def test_last_step_lands_on_the_clean_estimate(tiny_prior):
    z, z0, noise = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(tiny_prior.reverse(z, z0, torch.tensor([0]), torch.tensor([-1]), noise), z0)


def test_samples_at_different_indices_do_not_interact(tiny_prior):
    z, i = torch.randn(3, 4, 4, 4, dtype=torch.float64), torch.tensor([0, 20, 39])
    together = tiny_prior.predict_z0(z, i)
    for k in range(3):
        torch.testing.assert_close(
            tiny_prior.predict_z0(z[k : k + 1], i[k : k + 1])[0], together[k], rtol=0, atol=1e-12
        )


def test_disk_round_trip(tiny_prior, tiny_diffusion, tmp_path):
    tiny_prior.save_pretrained(tmp_path, tiny_diffusion)
    again = Prior.from_pretrained(tmp_path).double()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64) * 2 - 1
    z = tiny_prior.encode(x)
    assert z.shape[1:] == tiny_prior.latent_shape((1, 16, 16))
    torch.testing.assert_close(again.encode(x), z, atol=1e-5, rtol=1e-5)  # weights are stored in float32 or better
    torch.testing.assert_close(again.decode(z), tiny_prior.decode(z), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.abar, tiny_prior.abar)
    assert again.pixel_unshuffle == 2 and again.scaling_factor == tiny_prior.scaling_factor


def test_missing_and_foreign_folders_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prior: there is no folder .*nowhere"):
        Prior.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Other", "transformer": ["diffusers", "X"]}))
    with pytest.raises(ValueError, match="vqvae or vae, unet and scheduler are needed"):
        Prior.from_pretrained(tmp_path)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_prior_that_is_taken_replaces_the_one_before_whole(tiny_prior, tiny_diffusion, tmp_path):
    """A vqvae left beside a new vae would be read in its place."""
    source, target = tmp_path / "other", tmp_path / "data" / "prior"
    tiny_prior.save_pretrained(source, tiny_diffusion)
    (source / "README.md").write_text("the card")
    (target / "vqvae").mkdir(parents=True)
    (target / "vqvae" / "config.json").write_text("{}")
    taken = take_prior(source, target)
    assert files(target) == files(source)
    torch.testing.assert_close(taken.abar, tiny_prior.abar)


def test_a_compvis_checkpoint_is_taken_with_the_config_beside_it(tmp_path):
    taken = take_prior(COMPVIS / "model.ckpt", tmp_path / "prior")
    again = Prior.from_pretrained(tmp_path / "prior")
    assert taken.quantised and again.n_steps == 1000
    for a, b in zip(again.parameters(), load_compvis_prior(COMPVIS / "model.ckpt").parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_model_of_the_hub_is_taken_from_its_cache(tiny_prior, tiny_diffusion, tmp_path, monkeypatch):
    """The hub's cache holds links to its blobs; what is taken holds the files themselves."""
    cache, blobs = tmp_path / "cache", tmp_path / "blobs"
    tiny_prior.save_pretrained(blobs, tiny_diffusion)
    for path in [path for path in blobs.rglob("*") if path.is_file()]:
        link = cache / path.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked[repo_id] = allow_patterns
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    take_prior("CompVis/ldm-celebahq-256", tmp_path / "prior")
    assert asked == {"CompVis/ldm-celebahq-256": ["model_index.json", "vqvae/*", "vae/*", "unet/*", "scheduler/*"]}
    assert files(tmp_path / "prior") == files(blobs)
    assert not any(path.is_symlink() for path in (tmp_path / "prior").rglob("*"))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "CompVis/ldm-celebahq-256",
            FileNotFoundError,
            "there is no folder 'CompVis/ldm-celebahq-256', and the hub does",
        ),
        ("../another/study/prior", FileNotFoundError, "there is no folder '../another/study/prior'"),
        (str(COMPVIS / "nowhere.ckpt"), FileNotFoundError, "nowhere.ckpt"),
        (str(COMPVIS), FileNotFoundError, "model_index.json is missing"),
    ],
)
def test_what_cannot_be_taken_leaves_the_prior_before(source, error, message, tmp_path, monkeypatch):
    def offline(repo_id, **options):
        huggingface_hub.utils.validate_repo_id(repo_id)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    target = tmp_path / "prior"
    target.mkdir()
    (target / "model_index.json").write_text("{}")
    with pytest.raises(error, match=message):
        take_prior(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["prior"] and files(target) == {
        Path("model_index.json"): b"{}"
    }
