"""The report page: it stands alone, its links lead somewhere, what was measured is on it and nothing else, and it folds."""

import shutil
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from figure_cases import draw
from page_cases import DEGRADATIONS, PAIRS, STUDY, Page, write_study
from synthetic import ablation_rows, example_arrays, example_rows, frechet_rows, reconstruction_rows, write_metrics

from flashdiff import figures
from flashdiff.report import (
    ablation,
    claims,
    executed,
    frontier,
    headline,
    pictures,
    sections,
    sentences,
    tables,
    template,
)
from flashdiff.report import page as report
from flashdiff.starts import STARTS
from flashdiff.study.records import read_json, write_json

CAPTIONS = template.module("captions.j2")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study's folder with its page; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    report.assemble(folder, STUDY, DEGRADATIONS, PAIRS)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return Page((study / "reports/index.html").read_text(encoding="utf-8"))


def claims_on(page):
    """The rows of the tables of claims: the only ones that end with a rule."""
    criteria = {rule.criterion for rule in headline.rules().values()}
    return [row for row in page.rows if row[-1] in criteria]


def listed(whose, degradations=DEGRADATIONS, pairs=PAIRS, folder=None):
    """The records of a study that the page has to list, whose claims they are."""
    records = headline.collect(folder, STUDY, degradations, pairs)
    return [r for r in claims.listed(records).records if r["kind"] == whose]


# -------------------------------------------------------------------------------------------------------- the page


def test_every_image_and_link_is_there(study, page):
    assert len(page.attributes("src")) == 2 * 9 + 10 + 2
    targets = page.attributes("src") + page.attributes("href")
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in page.attributes("id")
        else:
            assert (study / "reports" / unquote(target)).is_file(), target
    assert {"headline.json", "#claims", "#gaussian_blur", "#random_inpainting", "#made"} <= set(targets)
    assert "notebooks/06_ordering_accuracy-gaussian_blur.ipynb" in targets
    # the PDF of a figure stands beside the figures, that of a timing beside its PNG
    assert "figures_pdf/order-gaussian_blur/ordering_by_pair.pdf" in targets
    assert "timings/speedup-gaussian_blur-ldps/wall_clock.pdf" in targets


def test_every_figure_is_on_the_page_once(study, page):
    found = sorted(path.relative_to(study / "reports").as_posix() for path in (study / "reports").rglob("*.png"))
    assert sorted(page.attributes("src")) == found


def test_the_page_works_offline(study, page):
    text = (study / "reports/index.html").read_text(encoding="utf-8")
    assert "://" not in text and "@import" not in text and "url(" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_every_claim_is_on_the_page_with_its_value_and_verdict_the_papers_first(study, page):
    expected = [*listed("paper", folder=study), *listed("own", folder=study)]
    # of few records one table; of many one per degradation, each with all claims of an encoder before those of its pairs
    order = {
        False: lambda r: r["claim"] not in headline.PER_ENCODER,
        True: lambda r: DEGRADATIONS.index(r["degradation"]),
    }
    rows, at = claims_on(page), 0
    for whose in ("paper", "own"):
        of_kind = sorted((r for r in expected if r["kind"] == whose), key=order[False])
        folded = len(of_kind) > report.LONG
        of_kind = sorted(of_kind, key=order[True]) if folded else of_kind
        for record, row in zip(of_kind, rows[at : at + len(of_kind)], strict=True):
            assert row[:4] == [
                record["in_words"],
                headline.label(record),
                headline.describe(record),
                record["start"] or "",
            ]
            assert folded or row[4] == record["degradation"].replace("_", " ")
            assert row[-1] == headline.rules()[record["claim"]].criterion
        at += len(of_kind)
    assert at == len(rows)
    assert page.text_of("h3")[:2] == ["What the paper claims", "This project's own comparisons and bounds"]


def test_verdicts_of_the_two_tables_have_words_of_their_own(study):
    words = {whose: {r["in_words"] for r in listed(whose, folder=study)} for whose in ("paper", "own")}
    assert words["paper"] <= {"reproduced", "not reproduced"}
    assert words["own"] <= {"ahead", "level", "behind", "met", "not met", "described"} and "ahead" in words["own"]


def test_claims_of_an_encoder_are_said_once(tmp_path):
    write_metrics(tmp_path, ["gaussian_blur"], ["ldps", "other"])
    pairs = [("gaussian_blur", "ldps"), ("gaussian_blur", "other")]
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], pairs).read_text(encoding="utf-8")
    for claim, rule in headline.rules().items():
        if claim in headline.PER_ENCODER:
            assert [row[1] for row in claims_on(Page(text))].count(rule.label) == 1, claim
    assert text.count("of all pairs of levels in the right order") == 1


def test_a_comparison_that_cannot_apply_and_what_was_not_measured_are_not_listed_but_named(tmp_path):
    write_metrics(tmp_path)
    reports, item = tmp_path / "reports", "gaussian_blur-ldps"
    gains = read_json(reports / f"metrics/reconstruction-{item}.json")
    one = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 10}
    gains["gains"]["flash_published"]["full_length"]["nfe_ratio"] = one
    write_json(reports / f"metrics/reconstruction-{item}.json", gains)
    speed = read_json(reports / f"timings/speedup-{item}.json")
    speed["wall_clock_ratio"]["flash_consistent"] = {"value": None, "low": None, "high": None, "n": 10}
    write_json(reports / f"timings/speedup-{item}.json", speed)
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8")
    rows = [(row[1], row[3]) for row in claims_on(Page(text))]
    evaluations, clock = (headline.rules()[claim].label for claim in ("nfe_ratio", "wall_clock_ratio"))
    assert [start for claim, start in rows if claim == evaluations] == ["consistent", "inversion"]
    assert [start for claim, start in rows if claim == clock] == [
        "inversion"
    ]  # published: equal cost; consistent: no time
    assert f"and so not listed: {clock}." in text and "no ratio of cost is listed: LDPS on gaussian blur." in text
    # a ratio that only happens to be about one stays
    gains["gains"]["flash_published"]["full_length"]["nfe_ratio"] = one | {"low": 0.9, "high": 1.1}
    write_json(reports / f"metrics/reconstruction-{item}.json", gains)
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8")
    assert [row[3] for row in claims_on(Page(text)) if row[1] == evaluations] == [
        "published",
        "consistent",
        "inversion",
    ]


def test_all_comparisons_are_on_the_page_and_in_its_table(study, page):
    table = report.comparisons(study, PAIRS)
    means = reconstruction_rows().groupby("method").mean(numeric_only=True)
    assert len(table) == 2 * 7 and list(table.degradation.unique()) == DEGRADATIONS
    for row in table[table.degradation == DEGRADATIONS[0]].to_dict("records"):
        for name in ("nfe", "decodes", "psnr", "ssim", "perceptual"):
            assert row[name] == pytest.approx(means.loc[row["method"], name], rel=1e-5)
    assert {"NFE", "PSNR (dB)", "SSIM", "perceptual distance"} <= set(page.text_of("th"))
    rows = [row for row in page.rows if row[:3] == ["gaussian blur", "LDPS", "Flash, published start"]]
    assert len(rows) == 1 and rows[0][5] == f"{means.psnr['flash_published']:.2f}"


def test_verdicts_are_coloured(study, page):
    verdicts = [row[0] for row in claims_on(page)]
    classes = [attributes["class"] for tag, attributes in page.elements if tag == "td" and "class" in attributes]
    assert classes == [f"verdict {verdict.replace(' ', '-')}" for verdict in verdicts]
    style = (study / "reports/index.html").read_text(encoding="utf-8").partition("</style>")[0]
    for verdict in ("reproduced", "not-reproduced", "ahead", "level", "behind", "met", "not-met", "described"):
        assert f".{verdict}" in style, verdict


def test_headings_captions_and_order_of_the_sections(page):
    assert [heading for heading in page.text_of("h2") if heading[0].isupper()][3:] == [
        "All comparisons",
        "Claims and verdicts",
        "Gaussian blur",
        "Random inpainting",
        "How far to trust an image",
        "How it was made",
    ]
    stages = ("order", "correlate", "ablation", "frontier", "reconstruct", "speedup", "robustness")
    assert page.text_of("h4") == [*2 * [CAPTIONS.parts[stage] for stage in stages], CAPTIONS.parts["confidence"]]
    sources = [source for source in page.attributes("src") if not source.startswith(report.PICTURES)]
    names = [source.split("/")[-1].removesuffix(".png") for source in sources]
    reading_order = [
        "ordering_by_pair", "severity_against_level", "calibration", "ablation", "gain_over_fixed", "start_distribution",
        "wall_clock", "noise_robustness",
    ]  # fmt: skip
    of_all = ["confidence", "intervals_held"]
    assert names == 2 * ["frontier"] + 2 * reading_order + of_all
    captions = [caption.strip() for caption in page.text_of("figcaption")]
    assert captions[4:] == [CAPTIONS.figures[name] for name in [*2 * reading_order, *of_all]]


def test_captions_and_alt_texts_are_there_for_what_the_stages_draw():
    drawn = set(figures.__all__) - {"save", "image_grid"}
    assert set(CAPTIONS.figures) == set(CAPTIONS.alts) == drawn
    stages = (*sections.OF_ENCODER, *sections.OF_PAIR, *sections.OF_STUDY)
    assert set(CAPTIONS.parts) == {stage for stage, _ in stages}
    assert set(CAPTIONS.tables) == {name for _, names in stages for name in names}


def test_alt_texts_say_what_is_shown_and_of_what(page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    for image in images:
        name = image["src"].split("/")[-1].removesuffix(".png")
        assert len(image["alt"].split()) >= 3 and image["alt"] != name.replace("_", " "), image["src"]
    alts = {image["src"]: image["alt"] for image in images}
    alt = alts["figures/frontier-random_inpainting-ldps/frontier.png"]
    assert alt == f"{CAPTIONS.alts['frontier']}: random inpainting, LDPS."
    assert alts["comparisons/pictures/hard-truth.png"] == "truth, hard image."


def test_every_template_is_named_so_that_a_change_reruns_the_report():
    folder = report.Path(template.__file__).parent / "templates"
    assert set(template.TEMPLATES) == {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------- the first screen


def test_the_page_opens_with_three_cards_of_the_records(study, page):
    cards = [attributes for tag, attributes in page.elements if attributes.get("class") == "card"]
    assert len(cards) == 3 and page.text_of("h2")[0] == "Evaluations saved at better quality"
    records, numbers = headline.collect(study, STUDY, DEGRADATIONS, PAIRS), page.text_of("b")
    found = []
    for degradation in DEGRADATIONS:
        own = [r for r in records if r["degradation"] == degradation]
        (ratio,) = [r for r in own if r["claim"] == "nfe_ratio_100"]
        of_budget = read_json(study / f"reports/metrics/budgets-{degradation}-ldps.json")
        tuned_for = of_budget["nfe_ratio_100"]["tuned_for"]
        gain = of_budget["gains"][f"{ratio['budget']:g}"]["full_length"][tuned_for]["psnr_gain_db"]["value"]
        (choice,) = [
            r for r in own
            if (r["claim"], r["budget"], r["measure"]) == ("adaptive_vs_best_fixed_few", ratio["budget"], "psnr")
        ]  # fmt: skip
        found.append((f"{ratio['value']:.0f}×", f"+{gain:.2f} dB", f"+{choice['value']:.3f} dB"))
    assert numbers == [number for card in zip(*found, strict=True) for number in card]


def opened(folder, records=None, **changes):
    """The title and the texts of the cards of a study of one pair whose metrics of few steps were changed."""
    item, reports = "-".join(PAIRS[0]), folder / "reports"
    content = read_json(reports / f"metrics/budgets-{item}.json")
    write_json(reports / f"metrics/budgets-{item}.json", content | changes)
    page = Page(report.assemble(folder, STUDY, DEGRADATIONS[:1], PAIRS[:1]).read_text(encoding="utf-8"))
    return page.text_of("h1")[0], page.text_of("b"), page.text_of("small")


def test_the_title_says_what_was_found_and_a_negative_result_like_a_positive_one(tmp_path):
    write_metrics(tmp_path)
    content = read_json(tmp_path / "reports/metrics/budgets-gaussian_blur-ldps.json")
    title, numbers, _ = opened(tmp_path)
    assert (
        title
        == "286 times fewer evaluations at better quality; choosing per image is ahead of one choice for all in 4 of 4"
    )
    nothing = dict.fromkeys(content["nfe_ratio_100"])
    title, numbers, texts = opened(tmp_path, nfe_ratio_100=nothing | {"tested": True})
    assert title.startswith("No few-step walk beats the full-length baseline in quality; choosing per image")
    assert numbers[0] == "none" and "no walk of few steps is better beyond chance" in texts[0]
    assert numbers[1].endswith(" dB") and "long walk" in texts[1]
    title, numbers, _ = opened(tmp_path, nfe_ratio_100=nothing | {"tested": False})
    assert title.startswith("Whether few steps beat the full-length baseline was not measured")
    assert numbers[0] == "not measured"


def test_a_choice_per_image_that_loses_is_said_to_lose(tmp_path):
    write_metrics(tmp_path)
    gains = read_json(tmp_path / "reports/metrics/budgets-gaussian_blur-ldps.json")["gains"]
    for of_budget in gains.values():
        for of_measure in of_budget["fixed"].values():
            for gain in of_measure.values():
                gain.update({end: -abs(gain[end]) for end in ("value", "low", "high")})
    title, numbers, texts = opened(tmp_path, gains=gains)
    assert title.endswith("choosing per image is ahead of one choice for all in 0 of 4")
    assert numbers[2].startswith("-") and "behind one choice for all" in texts[2]
    text = (tmp_path / "reports/index.html").read_text(encoding="utf-8")
    assert "level with or behind the best start and steps for all images in 4 of 4" in " ".join(text.split())


def test_of_many_pairs_the_cards_say_median_and_range(tmp_path):
    solvers = ["ldps", "a", "b", "c", "d"]
    write_metrics(tmp_path, DEGRADATIONS[:1], solvers)
    for number, solver in enumerate(solvers):
        path = tmp_path / f"reports/metrics/budgets-gaussian_blur-{solver}.json"
        content = read_json(path)
        ratio = {"value": 100.0 + number, "low": 90.0, "high": 120.0}
        write_json(path, content | {"nfe_ratio_100": content["nfe_ratio_100"] | ratio})
    path = report.assemble(tmp_path, STUDY, DEGRADATIONS[:1], [(DEGRADATIONS[0], s) for s in solvers])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text_of("h1")[0].startswith("100 to 104 times fewer evaluations at better quality;")
    assert page.text_of("b")[0] == "102×" and "5 of 5 comparisons" in page.text_of("small")[0]


def test_the_row_of_pictures_is_what_the_walks_made_of_an_easy_and_a_hard_image(tmp_path):
    rows, arrays, walk = example_rows(), example_arrays(), "6/adaptive/psnr"
    index = read_json(pictures.save_row(rows, arrays, tmp_path / "row", PAIRS[0], walk))
    assert [(shown["kind"], shown["image"]) for shown in index["shown"]] == [("easy", 4), ("hard", 7)]
    from PIL import Image

    for k, shown in enumerate(index["shown"]):
        names = [cell["name"] for cell in shown["cells"]]
        assert names == ["measurement", "no_diffusion", "full_length", "flash", "truth"]
        for cell in shown["cells"]:
            pixels = np.asarray(Image.open(tmp_path / "row" / cell["file"]))
            name = {"flash": walk}.get(cell["name"], cell["name"])
            assert (pixels == np.round((arrays[name][k, 0] + 1) * 127.5)).all()
            of_image = rows[(rows.walk == name) & (rows.kind == shown["kind"])]
            assert cell.get("nfe") == (of_image.nfe.iloc[0] if len(of_image) else None)


def test_the_row_shows_the_walk_that_the_cards_are_of():
    won = {"value": 166.7, "budget": 6.0, "tuned_for": "perceptual"}
    assert pictures.walk_of(example_rows(), won) == "6/adaptive/perceptual"
    assert pictures.walk_of(example_rows(), {"value": None}) == "flash_consistent"


# --------------------------------------------------------------------------------------------- folds and what is shown


def test_sections_are_folded_and_images_below_the_first_screen_are_lazy(page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    later = [image for image in images if not image["src"].startswith(report.PICTURES)][1:]
    assert later and all(image.get("loading") == "lazy" for image in later)
    assert all(int(image["width"]) > 0 and int(image["height"]) > 0 for image in later)
    inside = page.inside("details")
    assert {"ordering_by_pair.png", "start_distribution.png", "wall_clock.png"} <= {s.split("/")[-1] for s in inside}
    assert len(page.text_of("summary")) == len([tag for tag, _ in page.elements if tag == "details"])


def test_a_picture_of_what_was_not_measured_is_not_shown_though_an_earlier_run_drew_it(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    path = folder / "reports/timings/speedup-gaussian_blur-ldps.json"
    speed = read_json(path)
    unknown = {"value": None, "low": None, "high": None, "n": 10}
    write_json(path, speed | {"wall_clock_ratio": dict.fromkeys(speed["wall_clock_ratio"], unknown)})
    sources = Page(report.assemble(folder, STUDY, DEGRADATIONS, PAIRS).read_text(encoding="utf-8")).attributes("src")
    assert "timings/speedup-gaussian_blur-ldps/wall_clock.png" not in sources
    assert "timings/speedup-random_inpainting-ldps/wall_clock.png" in sources


def test_the_end_says_how_it_was_made(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    (folder / "params.yaml").write_text("study: <b>toy  # of blocks\n")
    write_json(
        folder / ".build/durations.json",
        {"06_ordering_accuracy-gaussian_blur": 107.6, "04_train_severity-mixture": 9.0},
    )
    text = report.assemble(folder, STUDY, DEGRADATIONS, PAIRS).read_text(encoding="utf-8")
    end = text.partition('id="made"')[2]
    assert "<pre>study: &lt;b&gt;toy\n</pre>" in end and "2 minutes in all" in end
    assert "<td>06_ordering_accuracy-gaussian_blur</td><td>108</td>" in end and "mixture" not in end
    for words in ("Python 3.", "torch ", "from revision unknown (no git repository)", " core"):
        assert words in end, words


def test_executed_notebooks_are_pages_without_copies_of_the_figures(study, tmp_path):
    import base64

    import nbformat

    folder = shutil.copytree(study, tmp_path / "study")
    reports, name = folder / "reports", "06_ordering_accuracy-gaussian_blur"
    picture = base64.b64encode(b"the picture of a cell").decode()
    output = nbformat.v4.new_output("display_data", {"image/png": picture, "text/plain": "Figure"})
    saved = nbformat.v4.new_code_cell('figures.save(figure, folder, "ordering_by_pair")\nfigure', outputs=[output])
    other = nbformat.v4.new_code_cell("another", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Words"), saved])
    nbformat.write(notebook, reports / f"notebooks/{name}.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=[other]), reports / "notebooks/01_download.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), reports / "notebooks/06_ordering_accuracy-random_inpainting.ipynb")
    written = executed.write_html(reports, DEGRADATIONS, PAIRS)
    assert [path.stem for path in written[:2]] == ["01_download", name]
    text = written[1].read_text(encoding="utf-8")
    assert (picture not in text and "Words</h1>" in text) or "Words<" in text
    assert 'src="../figures/order-gaussian_blur/ordering_by_pair.png"' in text and picture not in text
    assert picture in written[0].read_text(encoding="utf-8")  # it stands nowhere else
    links = Page(report.assemble(folder, STUDY, DEGRADATIONS, PAIRS).read_text(encoding="utf-8")).attributes("href")
    assert {f"notebooks_html/{name}.html", f"notebooks/{name}.ipynb"} <= set(links)
    # a second run changes nothing, and removes what the study no longer has
    before = {path: path.stat().st_mtime_ns for path in written}
    (reports / "notebooks_html/04_train_severity-mixture.html").write_text("left")
    assert executed.write_html(reports, DEGRADATIONS, PAIRS) == written
    assert before == {path: path.stat().st_mtime_ns for path in (reports / "notebooks_html").glob("*.html")}


# --------------------------------------------------------------------------------------------------------- contents


def test_tables_are_in_words(page):
    rows = [row[0] for row in page.rows]
    assert {"no diffusion, D(ẑ)", "Flash, published start", "fixed start 20", "fixed start, equal NFE"} <= set(rows)
    assert {"level t", "true latent error s̄", "PSNR of D(ẑ)", "perceptual distance of D(ẑ)"} <= set(rows)
    assert not [cell for row in page.rows for cell in row if "_" in cell or "nan" in cell.lower() or "..." in cell]
    quality = tables.quality_and_nfe(reconstruction_rows(), 100).set_index("method").loc["flash_published"]
    cell = f"{quality.psnr:.2f} [{quality.psnr_low:.2f}, {quality.psnr_high:.2f}]"
    assert any(row[0] == "Flash, published start" and cell in row for row in page.rows)


def test_tables_of_few_steps_are_in_words(page):
    rows = [row[:3] for row in page.rows]
    for cells in (
        ["3", "Flash, few steps", "PSNR"],
        ["6", "true error known (oracle)", "perceptual distance"],
        ["", "full-length baseline", ""],
        ["3", "best fixed start and steps", "PSNR"],
    ):
        assert cells in rows, cells
    assert {"evaluations asked", "tuned for", "seeds"} <= set(page.text_of("th"))


def test_with_many_pairs_the_frontier_stands_in_its_section(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    solvers = ["ldps", "a", "b", "c", "d"]
    write_metrics(folder, DEGRADATIONS[:1], solvers)
    text = report.assemble(folder, STUDY, DEGRADATIONS[:1], [(DEGRADATIONS[0], s) for s in solvers]).read_text("utf-8")
    names = [source.split("/")[-1] for source in Page(text).attributes("src")]
    assert names.count("frontier.png") == 1 and names.index("frontier.png") == names.index("gain_over_fixed.png") - 1


def test_two_runs_give_equal_bytes_also_when_the_first_left_its_notebook(study, tmp_path):
    """dvc keeps the report's own notebook from the run before: it must not make the page another one."""
    folder = shutil.copytree(study, tmp_path / "study")
    (folder / "reports/notebooks/16_report.ipynb").write_text("{}")
    again = report.assemble(folder, STUDY, DEGRADATIONS, PAIRS)
    assert again == folder / "reports/index.html"
    assert again.read_bytes() == (study / "reports/index.html").read_bytes()


def test_what_a_removed_pair_or_degradation_left_behind_is_not_on_the_page(study, tmp_path):
    """Outputs of stages persist."""
    folder = shutil.copytree(study, tmp_path / "study")
    notebooks = ["01_download", "04_train_severity-gaussian_blur", "11_speed_up-gaussian_blur-ldps"]
    left = ["05_reconstruction-gaussian_blur-ldps", "04_train_severity-mixture", "09_reconstruct-gaussian_blur-psld"]
    for name in notebooks + left:
        (folder / f"reports/notebooks/{name}.ipynb").write_text("{}")
    for kind in ("figures", "timings"):
        source = folder / f"reports/{kind}" / ("reconstruct" if kind == "figures" else "speedup")
        shutil.copytree(f"{source}-gaussian_blur-ldps", f"{source}-gaussian_blur-psld")
    shutil.copy(
        folder / "reports/tables/quality-gaussian_blur-ldps.csv", folder / "reports/tables/quality-mixture-ldps.csv"
    )
    text = report.assemble(folder, STUDY, DEGRADATIONS[:1], PAIRS[:1]).read_text(encoding="utf-8")
    assert not [word for word in ("random_inpainting", "Random inpainting", "mixture", "psld") if word in text]
    links = [link for link in Page(text).attributes("href") if link.startswith("notebooks/")]
    names = ["01_download", notebooks[1], "06_ordering_accuracy-gaussian_blur", notebooks[2]]
    assert links == [f"notebooks/{name}.ipynb" for name in names]


@pytest.mark.parametrize(
    "table", [pd.DataFrame(), pd.DataFrame(columns=["method", "psnr"])], ids=["no columns", "no rows"]
)
@pytest.mark.parametrize("name", ["severity_correlations", "ablation"])
def test_a_table_of_nothing_is_not_shown(study, tmp_path, name, table):
    folder = shutil.copytree(study, tmp_path / "study")
    path = folder / f"reports/tables/{name}-gaussian_blur.csv"
    assert path.is_file()
    table.to_csv(path, index=False)
    page = Page(report.assemble(folder, STUDY, DEGRADATIONS, PAIRS).read_text(encoding="utf-8"))
    shown = [target for target in page.attributes("href") if target.endswith(f"{name}-gaussian_blur.csv")]
    other = [target for target in page.attributes("href") if target.endswith(f"{name}-random_inpainting.csv")]
    assert shown == [] and len(other) == 1


def test_a_study_without_figures_and_tables_still_has_its_claims(tmp_path):
    write_metrics(tmp_path)
    page = Page(report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8"))
    assert not page.attributes("src") and len(page.rows) == 1 + len(
        listed("paper", DEGRADATIONS[:1], PAIRS[:1], tmp_path)
    ) + (1 + len(listed("own", DEGRADATIONS[:1], PAIRS[:1], tmp_path))) + (1 + 7)


@pytest.mark.parametrize(("solvers", "shown"), [(["ldps", "ldps_ddim40"], True), (["ldps"], False)])
def test_solvers_are_held_against_one_reference_where_there_are_several(tmp_path, solvers, shown):
    write_metrics(tmp_path, ["gaussian_blur"], solvers)
    rows = {("gaussian_blur", solver): reconstruction_rows() for solver in solvers}
    tables.save(tables.across_solvers(rows, 100), tmp_path / "reports/comparisons", "across_solvers")
    figures.save(draw("frontier_of_solvers"), tmp_path / "reports/comparisons", "frontier_of_solvers")
    path = report.assemble(tmp_path, STUDY, ["gaussian_blur"], [("gaussian_blur", solver) for solver in solvers])
    text = path.read_text(encoding="utf-8")
    assert ("All against one reference" in text) == shown
    assert text.count("<td>LDPS (ddim40)</td>\n      <td>LDPS</td>") == shown
    assert text.count('src="comparisons/frontier_of_solvers.png"') == shown
    assert (CAPTIONS.figures["frontier_of_solvers"] in text) == shown


@pytest.mark.parametrize(("left_out", "shown"), [([], True), (["fixed_20", "fixed_150"], False)])
def test_headroom_is_shown_where_there_was_something_to_choose(tmp_path, left_out, shown):
    write_metrics(tmp_path, ["gaussian_blur"])
    rows = reconstruction_rows()
    table = tables.headroom(rows[~rows.method.isin(left_out)], 100)
    tables.save(table, tmp_path / "reports/tables", "headroom-gaussian_blur-ldps")
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8")
    assert (CAPTIONS.tables["headroom"] in text) == shown


@pytest.mark.parametrize("count", [0, None])
def test_frechet_distances_of_few_steps_are_shown_where_they_were_measured(tmp_path, count):
    write_metrics(tmp_path, ["gaussian_blur"])
    table, reports = frontier.frechet_table(frechet_rows()[:count]), tmp_path / "reports"
    if len(table):
        figures.save(figures.frechet(table), reports / "figures/frontier-gaussian_blur-ldps", "frechet")
    tables.save(table, reports / "tables", "frechet-gaussian_blur-ldps")
    assert (reports / "tables/frechet-gaussian_blur-ldps.tex").is_file()
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8")
    page, shown = Page(text), count is None
    assert page.attributes("src") == ["figures/frontier-gaussian_blur-ldps/frechet.png"] * shown
    heads = {"Frechet distance", "less that of D(ẑ)", "less that of the best fixed start"}
    assert (heads <= set(page.text_of("th"))) == shown
    cells = ["3", "Flash, few steps", "perceptual distance", "1000", "2.90", "0.731", "-0.169 [-0.179, -0.149]"]
    assert ([*cells, "-0.030 [-0.040, -0.010]"] in page.rows) == shown
    assert (["", "no diffusion, D(ẑ)", "", "1000", "0.00", "0.900", "", ""] in page.rows) == shown
    assert ("Perceptual and Frechet distances are measured" in text) == shown


@pytest.mark.parametrize("count", [0, None])
def test_an_ablation_is_shown_where_there_was_one(tmp_path, count):
    write_metrics(tmp_path, ["gaussian_blur"])
    rows, reports = ablation_rows()[:count], tmp_path / "reports"
    if len(rows):
        figures.save(figures.ablation(rows), reports / "figures/ablation-gaussian_blur", "ablation")
    tables.save(ablation.table(rows), reports / "tables", "ablation-gaussian_blur")
    assert (reports / "tables/ablation-gaussian_blur.tex").is_file()
    page = Page(report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8"))
    shown = count is None
    assert ("What its training does" in page.text_of("h4")) == shown
    assert (["squared", "own network", "1000"] in [row[:3] for row in page.rows]) == shown
    assert ({"error at 0", "error at 0.25", "calibration ratio"} <= set(page.text_of("th"))) == shown
    assert page.attributes("src") == ["figures/ablation-gaussian_blur/ablation.png"] * shown


def test_several_solvers_have_their_own_folds(tmp_path):
    write_metrics(tmp_path, ["gaussian_blur"], ["ldps", "other"])
    for solver in ("ldps", "other"):
        figures.save(
            draw("gain_over_fixed"), tmp_path / f"reports/figures/frontier-gaussian_blur-{solver}", "gain_over_fixed"
        )
    pairs = [("gaussian_blur", "ldps"), ("gaussian_blur", "other")]
    page = Page(report.assemble(tmp_path, STUDY, ["gaussian_blur"], pairs).read_text(encoding="utf-8"))
    folds = [text.partition(":")[0] for text in page.text_of("summary")]
    assert folds[-2:] == ["LDPS", "other"] and page.text_of("h4") == 2 * ["Few steps"]
    assert [text for text in page.text_of("strong") if text != "toy" and "What" not in text] == [
        "Gaussian blur:",
        "LDPS:",
        "other:",
    ]


def test_a_missing_metrics_file_leaves_the_page_before(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    (folder / "reports/timings/speedup-gaussian_blur-ldps.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"speedup-gaussian_blur-ldps.json: not there; run `make study`"):
        report.assemble(folder, STUDY, DEGRADATIONS, PAIRS)
    assert (folder / "reports/index.html").read_bytes() == (study / "reports/index.html").read_bytes()


def test_text_of_the_study_is_escaped(tmp_path):
    evil = ["<b>a&b"]
    write_metrics(tmp_path, evil, ["<i>"])
    reports = tmp_path / "reports"
    (reports / "tables").mkdir()
    pd.DataFrame({"method": ["<u>m"], "psnr": [1.5]}).to_csv(reports / "tables/quality-<b>a&b-<i>.csv", index=False)
    (reports / "notebooks").mkdir()
    (reports / "notebooks/06_ordering_accuracy-<b>a&b.ipynb").write_text("{}")
    figures.save(draw("image_grid"), reports / "figures/order-<b>a&b", "grid<p>")
    headline.write(headline.collect(tmp_path, "<q>", evil, [(*evil, "<i>")]), reports / "headline.json")
    page = Page(report.assemble(tmp_path, "<q>", evil, [(*evil, "<i>")]).read_text(encoding="utf-8"))
    assert not {"i", "q", "s", "u"} & {tag for tag, _ in page.elements}
    assert len(page.text_of("b")) == 3  # the numbers of the cards
    assert page.text_of("title") == ["flashdiff: <q>"]
    assert {"<q>", "<b>a&b:", "<i>:"} <= set(page.text_of("strong")) and "<b>a&b" in page.text_of("h2")
    assert ["<u>m", "1.500"] in page.rows and "06_ordering_accuracy-<b>a&b" in page.text_of("a")
    for target in page.attributes("src") + page.attributes("href"):
        assert target[1:] in page.attributes("id") if target[0] == "#" else (reports / target).is_file()


def test_the_sentences_on_the_page_agree_with_their_records(study):
    records = headline.collect(study, STUDY, DEGRADATIONS, PAIRS)
    text = (study / "reports/index.html").read_text(encoding="utf-8")
    for degradation in DEGRADATIONS:
        sentence = sentences.sentence(records, degradation, "ldps")
        assert f"<p>{sentences.encoder_sentence(records, degradation)}</p>" in text and f"<p>{sentence}</p>" in text
        for start in STARTS:
            (gain,) = [r for r in records if (r["claim"], r["degradation"], r["start"]) == ("psnr_gain_db", degradation, start)]  # fmt: skip
            assert f"PSNR is better by {headline.describe(gain)}" in sentence
    assert "measured on 10 test images per comparison" in text
