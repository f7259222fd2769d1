"""The report page: it stands alone, its links lead somewhere, every claim is on it, and its sentences read right."""

import itertools
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pandas as pd
import pytest
from figure_cases import draw
from synthetic import ablation_rows, interval, reconstruction_rows, severity_rows, write_metrics

from flashdiff.report import ablation, figures, frontier, headline, tables
from flashdiff.report import page as report
from flashdiff.starts import STARTS
from flashdiff.study.records import read_json

STUDY, DEGRADATIONS, SOLVERS = "toy", ["gaussian_blur", "random_inpainting"], ["ldps"]
PAIRS = [(degradation, "ldps") for degradation in DEGRADATIONS]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What the tests ask of a page: elements with attributes, texts by element, rows of tables; tags must nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.append((tag, []))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        for tag, parts in self.texts[-1:] if self.open else []:
            if tag == self.open[-1]:
                parts.append(data)

    def attributes(self, name):
        """All values of an attribute, in the order of the page."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def text_of(self, tag):
        """The text directly inside every element of that kind."""
        return ["".join(parts) for name, parts in self.texts if name == tag]


def write_study(folder, degradations=DEGRADATIONS, solvers=SOLVERS):
    """Reports of a study as its stages leave them: metrics, tables, a few figures and executed notebooks."""
    write_metrics(folder, degradations, solvers)
    reports, quality = folder / "reports", tables.quality_and_nfe(reconstruction_rows(), 100)
    (reports / "notebooks").mkdir()
    for degradation in degradations:
        figures.save(draw("ordering_by_pair"), reports / f"figures/order-{degradation}", "ordering_by_pair")
        # in another order than the page's
        for name in ("calibration", "severity_against_level"):
            figures.save(draw(name), reports / f"figures/correlate-{degradation}", name)
        figures.save(draw("ablation"), reports / f"figures/ablation-{degradation}", "ablation")
        tables.save(ablation.table(ablation_rows()), reports / "tables", f"ablation-{degradation}")
        (reports / f"notebooks/06_ordering_accuracy-{degradation}.ipynb").write_text("{}")
        tables.save(
            tables.severity_correlations(severity_rows(), 100),
            reports / "tables",
            f"severity_correlations-{degradation}",
        )
        for solver in solvers:
            item = f"{degradation}-{solver}"
            for name in ("gain_over_fixed", "frontier"):
                figures.save(draw(name), reports / f"figures/frontier-{item}", name)
            summary = read_json(reports / f"metrics/budgets-{item}.json")
            tables.save(frontier.budget_table(summary), reports / "tables", f"budgets-{item}")
            tables.save(frontier.gain_table(summary), reports / "tables", f"budget_gains-{item}")
            figures.save(draw("start_distribution"), reports / f"figures/reconstruct-{item}", "start_distribution")
            figures.save(draw("wall_clock"), reports / f"timings/speedup-{item}", "wall_clock")
            tables.save(quality, reports / "tables", f"quality-{item}")
            paired = [
                tables.paired_comparison(reconstruction_rows(), method, baseline, 100)
                for method in ("flash_published", "flash_consistent")
                for baseline in ("full_length", "fixed_mean")
            ]
            tables.save(pd.concat(paired), reports / "tables", f"paired-{item}")
    headline.write(
        headline.collect(folder, STUDY, degradations, list(itertools.product(degradations, solvers))),
        reports / "headline.json",
    )


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
    """The rows of the tables of claims: the only ones that say what counts as reproduced."""
    criteria = {rule.criterion for rule in headline.rules().values()}
    return [row for row in page.rows if len(row) == 7 and row[5] in criteria]


# -------------------------------------------------------------------------------------------------------- the page


def test_every_image_and_link_is_there(study, page):
    assert len(page.attributes("src")) == 2 * 8
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


def test_every_claim_is_on_the_page_with_its_value_and_verdict(study, page):
    records = headline.collect(study, STUDY, DEGRADATIONS, PAIRS)
    expected = [[str(cell) for cell in row] for row in headline.to_frame(records).drop(columns="degradation").values]
    claims = claims_on(page)
    assert [row[1:] for row in claims] == [row[1:] for row in expected] and len(claims) == 2 * 62
    for record, row in zip(records, claims, strict=True):
        assert row[0] == ("" if record["claim"] in headline.PER_ENCODER else "LDPS")
        assert row[2] == headline.label(record)
        assert row[3] == headline.describe(record)
        assert row[6] == (
            "described" if record["claim"] in ("mean_start", "regret_to_oracle", "encoder_cost") else record["verdict"]
        )


def test_claims_of_an_encoder_are_said_once(tmp_path):
    write_metrics(tmp_path, ["gaussian_blur"], ["ldps", "other"])
    pairs = [("gaussian_blur", "ldps"), ("gaussian_blur", "other")]
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], pairs).read_text(encoding="utf-8")
    solvers = [row[0] for row in claims_on(Page(text))]
    assert solvers == [""] * 8 + ["LDPS"] * 54 + ["other"] * 54
    assert text.count("of all pairs of levels in the right order") == 1


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
    verdicts = [row[6] for row in claims_on(page)]
    classes = [attributes.get("class") for tag, attributes in page.elements if tag == "td" and "class" in attributes]
    assert classes == [verdict.replace(" ", "-") for verdict in verdicts]
    assert {"reproduced", "not-reproduced", "described"} == set(classes)


def test_headings_captions_and_order_of_the_sections(page):
    assert page.text_of("h2") == [
        "All comparisons",
        "Claims and verdicts",
        "Gaussian blur",
        "Random inpainting",
        "How it was made",
    ]
    assert page.text_of("h3")[2:9] == [title for title, *_ in report.PARTS]
    names = [source.split("/")[-1].removesuffix(".png") for source in page.attributes("src")]
    reading_order = [
        "ordering_by_pair", "severity_against_level", "calibration", "ablation", "gain_over_fixed", "start_distribution",
        "wall_clock",
    ]  # fmt: skip
    assert names == 2 * ["frontier"] + 2 * reading_order
    captions = [caption.strip() for caption in page.text_of("figcaption")]
    opening = [f"{pair} {report.CAPTIONS['frontier']}" for pair in ("Gaussian blur, LDPS.", "Random inpainting, LDPS.")]
    assert captions == opening + 2 * [report.CAPTIONS[name] for name in reading_order]
    assert page.attributes("alt") == [name.replace("_", " ") for name in names]


def test_captions_and_parts_name_what_the_stages_draw():
    assert set(report.CAPTIONS) == set(figures.__all__) - {"save", "image_grid"}


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


def test_a_start_that_costs_more_than_it_saves_is_said_to(tmp_path):
    records = [r | {"value": 0.5} if r["claim"] == "nfe_ratio" else r for r in records_with(BETTER, BETTER)]
    text = report.sentence(records, *PAIRS[0])
    assert text.count("needs 2.0 times more denoiser evaluations than the full-length baseline") == 2


def test_a_study_without_figures_and_tables_still_has_its_claims(tmp_path):
    write_metrics(tmp_path)
    page = Page(report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8"))
    assert not page.attributes("src") and len(page.rows) == (1 + 62) + (1 + 7)


@pytest.mark.parametrize(("solvers", "shown"), [(["ldps", "ldps_ddim40"], True), (["ldps"], False)])
def test_solvers_are_held_against_one_reference_where_there_are_several(tmp_path, solvers, shown):
    write_metrics(tmp_path, ["gaussian_blur"], solvers)
    rows = {("gaussian_blur", solver): reconstruction_rows() for solver in solvers}
    tables.save(tables.across_solvers(rows, 100), tmp_path / "reports/comparisons", "across_solvers")
    path = report.assemble(tmp_path, STUDY, ["gaussian_blur"], [("gaussian_blur", solver) for solver in solvers])
    text = path.read_text(encoding="utf-8")
    assert ("All against one reference" in text) == shown
    assert text.count("<td>LDPS (ddim40)</td>\n      <td>LDPS</td>") == shown


@pytest.mark.parametrize(("left_out", "shown"), [([], True), (["fixed_20", "fixed_150"], False)])
def test_headroom_is_shown_where_there_was_something_to_choose(tmp_path, left_out, shown):
    write_metrics(tmp_path, ["gaussian_blur"])
    rows = reconstruction_rows()
    table = tables.headroom(rows[~rows.method.isin(left_out)], 100)
    tables.save(table, tmp_path / "reports/tables", "headroom-gaussian_blur-ldps")
    text = report.assemble(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1]).read_text(encoding="utf-8")
    assert (report.TABLE_CAPTIONS["headroom"] in text) == shown


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
    assert ("What its training does" in page.text_of("h3")) == shown
    assert (["squared", "own network", "1000"] in [row[:3] for row in page.rows]) == shown
    assert ({"error at 0", "error at 0.25", "calibration ratio"} <= set(page.text_of("th"))) == shown
    assert page.attributes("src") == ["figures/ablation-gaussian_blur/ablation.png"] * shown


def test_equal_cost_is_said_in_words(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, STUDY, ["gaussian_blur"], PAIRS[:1])
    equal = [r | {"value": 1.0} if r["claim"] == "nfe_ratio" else r for r in records]
    assert (
        report.sentence(equal, *PAIRS[0]).count("needs as many denoiser evaluations as the full-length baseline") == 3
    )


def test_several_solvers_have_their_own_headings(tmp_path):
    write_metrics(tmp_path, ["gaussian_blur"], ["ldps", "other"])
    text = report.assemble(
        tmp_path, STUDY, ["gaussian_blur"], [("gaussian_blur", "ldps"), ("gaussian_blur", "other")]
    ).read_text(encoding="utf-8")
    page = Page(text)
    assert page.text_of("h3")[1:] == [
        "What the encoder is asked", "Does it order severity?", "Is predicted severity the true severity?",
        "Few steps: LDPS", "Few steps: other", "Reconstruction: LDPS", "Reconstruction: other",
        "Speed, and what is left to gain: LDPS", "Speed, and what is left to gain: other",
    ]  # fmt: skip
    assert page.text_of("strong") == ["toy", "Gaussian blur:", "LDPS:", "other:"]


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
    assert not {"b", "i", "q", "s", "u"} & {tag for tag, _ in page.elements}
    assert page.text_of("title") == ["flashdiff: <q>"]
    assert page.text_of("strong") == ["<q>", "<b>a&b:", "<i>:"] and "<b>a&b" in page.text_of("h2")
    assert ["<u>m", "1.500"] in page.rows and "06_ordering_accuracy-<b>a&b.ipynb" in page.text_of("a")
    for target in page.attributes("src") + page.attributes("href"):
        assert target[1:] in page.attributes("id") if target[0] == "#" else (reports / target).is_file()


# ----------------------------------------------------------------------------------------------------- sentences


def records_with(psnr, perceptual, nfe=9.96, order=0.981, error=0.934):
    """Records of one degradation and solver, both starts with the same gains."""
    head = ("toy", "gaussian_blur", "ldps")
    records = [
        headline.record("ordering_accuracy", *head, interval(order, order, order)),
        headline.record("spearman_error", *head, interval(error, error, error)),
        headline.record("encoder_cost", *head, interval(0.559)),
    ]
    for start in ("published", "consistent"):
        for claim, measured in (("nfe_ratio", interval(nfe, nfe, nfe)), ("psnr_gain_db", psnr), ("perceptual_gain", perceptual)):  # fmt: skip
            records.append(headline.record(claim, *head, measured, start=start))
    return records


BETTER, WORSE, UNCLEAR = interval(1.25, 1.0, 1.5), interval(-1.25, -1.5, -1.0), interval(0.25, -1.0, 1.5)


def test_what_the_adaptive_choice_itself_is_worth_is_said_where_it_was_measured():
    head, records = ("toy", "gaussian_blur", "ldps"), records_with(BETTER, BETTER)
    assert "Gain in PSNR" not in report.sentence(records, "gaussian_blur", "ldps")
    for start, value in (("published", -0.25), ("consistent", 0.125)):
        for measure, scale in (("psnr", 1), ("perceptual", 10)):
            measured = interval(value * scale, value * scale - 0.5, value * scale + 0.5)
            records.append(headline.record("adaptive_vs_best_fixed", *head, measured, start=start, measure=measure))
    assert report.sentence(records, "gaussian_blur", "ldps").endswith(
        "]. Gain in PSNR over one fixed start of equal cost for all images: -0.250 dB [-0.750, 0.250] (published start), "
        "0.125 dB [-0.375, 0.625] (consistent start)."
    )


def test_what_few_steps_reach_is_said():
    head, records = ("toy", "gaussian_blur", "ldps"), records_with(BETTER, BETTER)
    assert "few steps" not in report.sentence(records, "gaussian_blur", "ldps")
    for budget, value in ((3.0, 0.25), (6.0, -0.125)):
        for measure, scale in (("psnr", 1), ("perceptual", 0.1)):
            measured = interval(value * scale, value * scale - 0.05, value * scale + 0.05)
            few = headline.record("adaptive_vs_best_fixed_few", *head, measured, budget=budget, measure=measure)
            records.append(few)
    gains = (
        " Gain in PSNR over the best fixed start and steps, by evaluations: 0.250 dB [0.200, 0.300] at 3, "
        "-0.125 dB [-0.175, -0.075] at 6. Gain in perceptual distance over the best fixed start and steps, by evaluations: "
        "2.50% [-2.50, 7.50] at 3, -1.25% [-6.25, 3.75] at 6."
    )
    both = "beats the baseline in PSNR and distance"
    for measured, verdict, words in (
        (interval(83.2, 82, 84), "reproduced", f" With few steps Flash {both} with 83 times fewer evaluations."),
        (None, "not tested", f" That Flash with few steps {both} was not tested."),
        (None, "not reproduced", f" That Flash with few steps {both} is not shown at any budget."),
    ):
        ratio = headline.record("nfe_ratio_100", *head, measured) | {"verdict": verdict}
        assert report.sentence([*records, ratio], "gaussian_blur", "ldps").endswith(words + gains)


def test_the_whole_sentences():
    records = records_with(BETTER, interval(-0.125, -0.15, -0.1))
    what = (
        "Flash needs 10.0 times fewer denoiser evaluations than the full-length baseline, PSNR is better by "
        "1.25 dB [1.00, 1.50] and perceptual distance is worse by 12.5% [10.0, 15.0]"
    )
    assert report.sentence(records, "gaussian_blur", "ldps") == (
        f"<strong>LDPS:</strong> with the published start {what}; with the consistent start {what}."
    )
    assert report.encoder_sentence(records, "gaussian_blur") == (
        "<strong>Gaussian blur:</strong> the severity encoder puts 98.1% of all pairs of levels in the right order, and its "
        "severity correlates with the true error at 0.93 (Spearman). Asking it, once per image, costs 0.56 of a guided evaluation."
    )


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (BETTER, "PSNR is better by 1.25 dB [1.00, 1.50] and"),
        (WORSE, "PSNR is worse by 1.25 dB [1.00, 1.50] and"),
        (UNCLEAR, "PSNR is not distinguishable from the baseline's (difference 0.250 dB [-1.000, 1.500]) and"),
        (interval(0.5, 0.0, 1.0), "PSNR is not distinguishable from the baseline's"),
        (interval(-0.5, -1.0, 0.0), "PSNR is not distinguishable from the baseline's"),
        (None, "PSNR was not measured and"),
    ],
)
def test_a_gain_reads_as_its_interval_says(measured, words):
    text = report.sentence(records_with(measured, interval(0.1, 0.05, 0.2)), "gaussian_blur", "ldps")
    assert text.count(words) == 2
    assert text.count("perceptual distance is better by 10.0% [5.0, 20.0]") == 2


def test_a_sentence_without_measures_says_so():
    records = records_with(None, None, nfe=None, order=None, error=None)
    text = report.encoder_sentence(records, "gaussian_blur") + report.sentence(records, "gaussian_blur", "ldps")
    assert "puts (not measured) of all pairs" in text and "at (not measured) (Spearman)" in text
    assert "needs (not measured) times fewer" in text and "None" not in text


def test_the_sentences_on_the_page_agree_with_their_records(study):
    records = headline.collect(study, STUDY, DEGRADATIONS, PAIRS)
    text = (study / "reports/index.html").read_text(encoding="utf-8")
    for degradation in DEGRADATIONS:
        sentence = report.sentence(records, degradation, "ldps")
        encoder = report.encoder_sentence(records, degradation)
        assert f'<div class="result"><p>{encoder}</p>\n<p>{sentence}</p>\n</div>' in text
        for start in STARTS:
            (gain,) = [r for r in records if (r["claim"], r["degradation"], r["start"]) == ("psnr_gain_db", degradation, start)]  # fmt: skip
            assert f"PSNR is better by {headline.describe(gain)}" in sentence
    assert "measured on 10 test images per comparison" in text


# -------------------------------------------------------------------------------------------------------- tables


def readable(**columns):
    return report.with_intervals(pd.DataFrame(columns)).to_dict("list")


def test_three_columns_become_one():
    assert readable(psnr=[22.333, -1.5], psnr_low=[21.0, -2.25], psnr_high=[23.456, -0.75]) == {
        "psnr": ["22.33 [21.00, 23.46]", "-1.50 [-2.25, -0.75]"]
    }


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.12345, -1.5], ["0.123", "-1.500"]),  # below 2: three decimals
        ([2.0, 0.5], ["2.00", "0.50"]),
        ([50.04, -3.0], ["50.0", "-3.0"]),
        ([-100.4, 3.0], ["-100", "3"]),
        ([1, -20], ["1", "-20"]),  # integers stay what they are
        ([1000, 0], ["1000", "0"]),
        ([1.5, float("nan")], ["1.500", ""]),
    ],
)
def test_decimals_follow_the_size_of_the_column(values, texts):
    assert readable(some_number=values) == {"some number": texts}


def test_integers_with_an_interval_have_the_decimals_of_the_interval():
    """A mean that happens to be whole is read from the CSV as an integer."""
    assert readable(nfe=[3, 4], nfe_low=[2.5, 3.5], nfe_high=[4, 5]) == {
        "nfe": ["3.00 [2.50, 4.00]", "4.00 [3.50, 5.00]"]
    }


def test_texts_pass_and_a_missing_interval_leaves_no_nan():
    nan = float("nan")
    table = readable(method=["fixed_20", "a"], gain=[1.0, nan], gain_low=[nan, nan], gain_high=[nan, nan], n=[3, 4])
    assert table == {"method": ["fixed_20", "a"], "gain": ["1.000", ""], "n": ["3", "4"]}
