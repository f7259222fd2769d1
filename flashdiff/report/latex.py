"""Tables for papers: the table that the page shows, in LaTeX, as wide as a column or as the page."""

import re
from collections.abc import Mapping

import pandas as pd

from flashdiff.report.display import readable

WIDTHS = (234, 487)
"""Points: a column, and the text of a page."""
SIZES = {"small": 9, "footnotesize": 8, "scriptsize": 7}
"""The sizes that are tried, the largest first, and their points in an article of 10 pt."""
ROWS = 40
"""A table of more rows goes over several pages, as a longtable."""
GAP = 3
"""Points on either side of a column."""
SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "σ̂": r"$\hat{\sigma}$", "ẑ": r"$\hat{z}$", "s̄": r"$\bar{s}$", "≈": r"$\approx$", "λ": r"$\lambda$",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, SIGNS)))


def escaped(text: str) -> str:
    """A text as LaTeX sets it; an interval in brackets is not broken."""
    text = _SIGN.sub(lambda found: SIGNS[found[0]], text)
    text = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(", ", ",~"), text)
    text = re.sub(r"(?<![\w.\])-])-(?=\d)", "$-$", text)
    return f"{{}}{text}" if text.startswith("[") else text  # after \\ a bracket would be read as a distance


def _tokens(text: str) -> list[str]:
    """What a line break does not cut: words, and intervals in brackets."""
    return re.findall(r"\[[^\]]*\]|[^\s\[\]]+", text) or [""]


def _letters(text: str) -> float:
    """How many letters of usual width are as wide as the text."""
    return len(text) + 0.4 * sum(sign.isupper() for sign in text)


def _columns(table: pd.DataFrame, points: float) -> tuple[list[float], list[float]]:
    """Per column the least width, its longest token, and the width that breaks no cell, in points."""
    em = 0.58 * points  # wider than most letters of Computer Modern, digits are 0.5
    heads = [str(column) for column in table]
    cells = [list(map(str, table[column])) for column in table]
    least = [
        max(_letters(t) for text in (head, *own) for t in _tokens(text)) for head, own in zip(heads, cells, strict=True)
    ]
    whole = [max(map(_letters, own), default=0) for own in cells]
    return [em * n for n in least], [em * max(n, m) for n, m in zip(least, whole, strict=True)]


def _layout(table: pd.DataFrame) -> tuple[str, list[float]] | None:
    """The size of letters and the columns' widths: as narrow as a column if that can be, and in letters as large as fit;
    None where the table is too wide for a page in the smallest letters."""
    for width in WIDTHS:
        for size, points in SIZES.items():
            least, whole = _columns(table, points)
            room = width - 2 * GAP * (len(least) - 1) - 1
            if sum(least) <= room:
                wanted = [w - n for w, n in zip(whole, least, strict=True)]
                share = min(1, (room - sum(least)) / max(sum(wanted), 1e-9))
                return size, [n + share * more for n, more in zip(least, wanted, strict=True)]
    return None


def _parts(table: pd.DataFrame, names: int) -> list[pd.DataFrame]:
    """The table as tables that fit on a page, one below the other; each repeats the first ``names`` columns.

    Raises ValueError naming the column that does not fit beside them.
    """
    columns, parts = list(table.columns), []
    front, rest = columns[:names], columns[names:]
    while rest or not parts:
        taken = next((n for n in range(len(rest), 0, -1) if _layout(table[front + rest[:n]])), 0)
        if taken == 0 and (rest or _layout(table[front]) is None):
            raise ValueError(f"table: column {(rest or front)[0]!r} does not fit on a page of {WIDTHS[-1]} pt.")
        parts.append(table[front + rest[:taken]])
        rest = rest[taken:]
    return parts


def to_latex(table: pd.DataFrame, distances: Mapping[str, str]) -> str:
    """The table as booktabs LaTeX in a group of its own: numbers and names as :func:`flashdiff.report.display.readable`
    says, every value with its interval in one cell, at most 487 pt wide; with more than ROWS rows a longtable.

    What is too wide for a page becomes several tables, each with the names in front. It needs the packages array, booktabs
    and, when it is long, longtable. distances: what readers call the two. Raises ValueError where a column does not fit.
    """
    shown = readable(table, distances).astype(str).replace({"nan": "", "None": ""})
    names = next((k for k, column in enumerate(table) if pd.api.types.is_numeric_dtype(table[column])), 1)
    # a further part is a paragraph of its own, and would be indented
    return "\n\\noindent\n".join(_tabular(part) for part in _parts(shown, min(max(names, 1), 2)))


def _tabular(shown: pd.DataFrame) -> str:
    size, widths = _layout(shown)
    environment = "longtable" if len(shown) > ROWS else "tabular"
    paragraphs = "".join(rf">{{\raggedright\arraybackslash}}p{{{width:.1f}pt}}" for width in widths)
    columns = f"@{{}}{paragraphs}@{{}}"
    head = " & ".join(escaped(str(column)) for column in shown) + r" \\"
    rows = [" & ".join(map(escaped, row)) + r" \\" for row in shown.itertuples(index=False, name=None)]
    lines = [rf"{{\{size}\setlength{{\tabcolsep}}{{{GAP}pt}}%", rf"\begin{{{environment}}}{{{columns}}}", r"\toprule"]
    lines += [head, r"\midrule", *([r"\endhead", r"\bottomrule", r"\endfoot"] if environment == "longtable" else [])]
    lines += [*rows, *([] if environment == "longtable" else [r"\bottomrule"]), rf"\end{{{environment}}}%", "}", ""]
    return "\n".join(lines)
