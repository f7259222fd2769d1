"""LaTeX tables: what they say, and that LaTeX sets them without a box that sticks out."""

import re
import shutil
import subprocess

import pandas as pd
import pytest
from synthetic import (
    ablation_rows,
    allocation_rows,
    calibrated_rows,
    few_step_rows,
    frechet_rows,
    reconstruction_rows,
    robustness_rows,
    seed_rows,
    severity_rows,
    spread_rows,
)

from flashdiff.report import ablation, allocation, calibrated, frontier, latex, robustness, spread, tables
from flashdiff.report.names import DISTANCES

NAMES = DISTANCES["features"]


def saved():
    """{name: table} of all that the drawing stages save."""
    rows, few = reconstruction_rows(), frontier.runs(few_step_rows(), reconstruction_rows(), seed_rows())
    summary = frontier.metrics(few, n_resamples=100)
    return {
        "quality": tables.quality_and_nfe(rows, 100),
        "paired": tables.paired_comparison(rows, "flash_published", "full_length", 100),
        "headroom": tables.headroom(rows, 100),
        "severity_correlations": tables.severity_correlations(severity_rows(), 100),
        "calibration": tables.calibration(severity_rows()),
        "ablation": ablation.table(ablation_rows()),
        "robustness_noise": robustness.noise_table(robustness_rows(), 100),
        "robustness_classes": robustness.class_table(robustness_rows(), 100),
        "robustness_encoders": robustness.encoder_table(robustness_rows(), 100),
        "robustness_starts": robustness.start_table(robustness_rows(), 100),
        "calibrated_start": calibrated.table({"gaussian_blur-ldps": calibrated_rows()}, 100),
        "allocation": allocation.table({"gaussian_blur-ldps": allocation.ways_of(allocation_rows(), 4)}, 100),
        "spread": spread.table({"gaussian_blur-ldps": spread_rows()}, 100),
        "budgets": frontier.budget_table(summary),
        "budget_gains": frontier.gain_table(summary),
        "frechet": frontier.frechet_table(frechet_rows()),
    }


def test_a_value_stands_with_its_interval_in_one_cell_under_a_readable_head():
    table = pd.DataFrame({"method": ["full_length"], "psnr": [22.123], "psnr_low": [21.9], "psnr_high": [-22.4]})
    text = latex.to_latex(table, NAMES)
    assert r"method & PSNR (dB) \\" in text and r"full-length baseline & 22.12 [21.90,~$-$22.40] \\" in text


@pytest.mark.parametrize(
    ("text", "set_as"),
    [("50% & more_so", r"50\% \& more\_so"), ("σ̂ of D(ẑ)", r"$\hat{\sigma}$ of D($\hat{z}$)"), ("-0.5", "$-$0.5"),
     ("full-length", "full-length"), ("[1, 2]", "{}[1,~2]")],
)  # fmt: skip
def test_signs_that_latex_reads_otherwise_are_escaped(text, set_as):
    assert latex.escaped(text) == set_as


def test_a_table_too_wide_for_a_page_becomes_several_with_the_names_in_front():
    wide = pd.DataFrame({"method": ["full_length"]} | {f"column{k}": [f"{k}00000"] for k in range(40)})
    parts = latex.to_latex(wide, NAMES).split(r"\begin{tabular}")[1:]
    assert 1 < len(parts) < 10
    assert all("full-length baseline" in part and r"\end{tabular}" in part for part in parts)
    heads = [re.findall(r"column\d+", part) for part in parts]
    assert [name for part in heads for name in part] == [f"column{k}" for k in range(40)]


def test_a_word_wider_than_a_page_is_refused():
    with pytest.raises(ValueError, match="table: column 'note' does not fit on a page of 487 pt"):
        latex.to_latex(pd.DataFrame({"method": ["full_length"], "note": ["x" * 200]}), NAMES)


def test_long_tables_go_over_pages():
    table = pd.DataFrame({"method": ["full_length"] * (latex.ROWS + 1)})
    assert r"\begin{longtable}" in latex.to_latex(table, NAMES) and r"\endhead" in latex.to_latex(table, NAMES)
    assert r"\begin{tabular}" in latex.to_latex(table[:-1], NAMES)


def compiled(folder, bodies):
    """The log of a page of 487 pt with these bodies."""
    packages = "".join(rf"\usepackage{{{name}}}" for name in ("array", "booktabs", "longtable"))
    body = "\n\n".join(rf"\noindent {text}" for text in bodies)
    head = r"\documentclass{article}" + packages + r"\textwidth=487pt\oddsidemargin=0pt\hfuzz=0.1pt"
    (folder / "page.tex").write_text(f"{head}\\begin{{document}}{body}\\end{{document}}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]
    return (folder / "page.log").read_text(errors="replace")


def needs_latex():
    ask = ["kpsewhich", "booktabs.sty"]
    if not shutil.which("pdflatex") or not subprocess.run(ask, capture_output=True, text=True).stdout.strip():
        pytest.skip("no pdflatex with booktabs; apt-get install texlive-latex-base texlive-latex-recommended")


def test_latex_sets_every_table_within_the_page(tmp_path):
    needs_latex()
    long = pd.concat([saved()["quality"]] * 4)
    log = compiled(tmp_path, [latex.to_latex(table, NAMES) for table in (*saved().values(), long)])
    assert not re.findall(r"Overfull \\hbox.*", log)


def test_the_log_would_name_a_table_that_sticks_out(tmp_path):
    needs_latex()
    assert "Overfull" in compiled(tmp_path, [r"\begin{tabular}{p{500pt}}x\end{tabular}"])
