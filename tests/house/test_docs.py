"""Every path that docs/, README.md, the study files and the package's own sentences name exists, and every link leads somewhere."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    *sorted((ROOT / "flashdiff").rglob("*.py")),
    *(ROOT / name for name in ("params.yaml", "dvc.yaml", "Makefile", "pyproject.toml")),
    *sorted((ROOT / "studies").glob("*/*.yaml")),
]

MADE = (  # what a study, an installation or DVC makes: not in a fresh clone
    ".build",
    ".venv",
    ".dvc/cache",
    ".dvc/tmp",
    "data/raw",
    "data/splits",
    "data/severity",
    "data/results",
    "data/prior/severity",  # with the authors' encoders only
    "studies/*/data/prior",  # taken again from where it comes from
    "studies/*/data/severity",
)
ELSEWHERE = (  # what is not this repository's
    "datasets/celeba_hq_256",  # git ignores the folder: there a user puts what paper_scale.md says
    "datasets/ffhq",
    "datasets/lists",
    "datasets/lsun",
    "datasets/weights",
    "data_utils",  # of z-fabian/flash-diffusion
    "scripts/download_models.sh",  # of CompVis/latent-diffusion
    "badasstechie",  # an account of Kaggle
    "CompVis",  # an account of the hub
    "me",  # an account of the hub that a reader may have
    "owner/*",  # an id of the hub, in general
    "vae",  # parts of a model's folder, up to the pipeline's
    "vqvae",
    "unet",
    "scheduler",
    "severity_encoder",
)
ROOMS = ("flashdiff", "tests", "docs", "notebooks", "studies", "benchmarks", "data/prior")
"""Where a file lies that is called by its bare name."""
SUFFIXES = ("py", "md", "ipynb", "yaml", "yml", "toml")
PLACEHOLDER = re.compile(
    r"\$\{[^}]*\}|<[^>]*>|(?<![A-Za-z])(?:NAME|PAIR|STUDY|DEGRADATION|SOLVER|BUCKET|X)(?![A-Za-z])"
)
IN_SOURCES = re.compile(r"(?<![\w./}~-])(?:docs|tests|notebooks|flashdiff|studies|benchmarks)/[\w./<>*${}-]+")


def without_code(text: str) -> str:
    """Markdown without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def paths_of_page(text: str) -> Iterator[str]:
    """What looks like a path in backticks: words with a slash inside, or that end as a text file of the repository."""
    for quoted in re.findall(r"`([^`]+)`", without_code(text)):
        for word in quoted.split():
            word = word.strip(",;:()[]{}\"'=").rstrip(".")
            if "://" in word or not re.fullmatch(r"[\w.*<>${}-]+(/[\w.*<>${}-]+)*/?", word):
                continue
            if "/" in word or (word.rpartition(".")[2] in SUFFIXES and word.rpartition(".")[0]):
                yield word


def links_of_page(text: str) -> list[str]:
    """The targets of links and images, but for those that lead to the web."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)) if "://" not in link]


def anchors_of_page(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths_of_source(text: str) -> list[str]:
    """Paths from the repository's top in the text of a module or a study file, in sentences or in strings."""
    return [path.rstrip(".-$") for path in IN_SOURCES.findall(text)]


def paths_of_tree(text: str) -> Iterator[str]:
    """The paths of the drawing of the house in docs/changing.md: names in the first 24 columns, then what they are."""
    (drawing,) = re.findall(r"^## The house\n+```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    folder = ""
    for line in drawing.splitlines():
        names = line[:24].split()
        if line.startswith(" "):
            yield from (folder + name for name in names)
        else:
            yield from names
            folder = names[0]


def lies_in(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*") for pattern in patterns)


def exists(path: str) -> bool:
    """Whether something is there that the path could mean: from the top, in a room of the package, or anywhere by its bare name."""
    pattern = PLACEHOLDER.sub("*", path).rstrip("/")
    if lies_in(pattern, MADE + ELSEWHERE) or any(any(place.glob(pattern)) for place in (ROOT, ROOT / "flashdiff")):
        return True
    return "/" not in pattern and any(any((ROOT / room).rglob(pattern)) for room in ROOMS)


def broken_links(text: str, page: Path) -> Iterator[str]:
    for link in links_of_page(text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors_of_page(target.read_text(encoding="utf-8"))):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    assert [path for path in paths_of_page(text) if not exists(path)] == []
    assert list(broken_links(text, page)) == []


def test_the_house_is_drawn_as_it_is():
    named = set(paths_of_tree((ROOT / "docs/changing.md").read_text(encoding="utf-8")))
    there = {f"flashdiff/{path.name}" + "/" * path.is_dir() for path in (ROOT / "flashdiff").glob("[a-z]*")}
    assert [path for path in named if not exists(path)] == []
    assert {path for path in named if path.startswith("flashdiff/")} - {"flashdiff/"} == there


def test_paths_that_sources_name_exist():
    named = {source: paths_of_source(source.read_text(encoding="utf-8")) for source in SOURCES}
    gone = {str(source.relative_to(ROOT)): [p for p in paths if not exists(p)] for source, paths in named.items()}
    assert {source: paths for source, paths in gone.items() if paths} == {}


def test_decisions_are_grouped_and_complete():
    """Every decision says what, why and at what cost; lines end at 120 columns."""
    text = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if len(line) > 120] == []
    decisions = re.split(r"^### ", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(decisions) > 50
    for decision in decisions:
        assert all(f"\n- {part}:" in decision for part in ("What", "Why", "Cost")), decision.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see `tests/test_gone.py`, then", ["tests/test_gone.py"]),
        ("run `make study STUDY=x` with `params.yaml`.", ["params.yaml"]),
        ("`python -m flashdiff.cli convert model.ckpt config.yaml FOLDER`", ["config.yaml"]),
        ("`flashdiff.measures` and `tables.headroom` are names, `.ckpt` is an ending", []),
        ("`studies/NAME/params.yaml` and `data/results/`", ["studies/NAME/params.yaml", "data/results/"]),
        ("`https://example.org/a/b.md` and `(B, C, H, W)` and `y - A(x)/2`", []),
        (
            "`reports/metrics/*.json`, `.build/source/<NAME>.txt`",
            ["reports/metrics/*.json", ".build/source/<NAME>.txt"],
        ),
        ("```\n`a/fenced.py`\n```\nand docs/plain.md without quotes", []),
    ],
)
def test_paths_are_found_in_pages(text, found):
    assert list(paths_of_page(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""As docs/decisions.md says."""', ["docs/decisions.md"]),
        ("# tests/a.py, and notebooks/16_report.ipynb.", ["tests/a.py", "notebooks/16_report.ipynb"]),
        ("reports/notebooks/x.ipynb ${root}/notebooks/y.ipynb https://github.com/a/flashdiff/docs/z.md", []),
        ("flashdiff.report.names, flashdiff and docs", []),
    ],
)
def test_paths_are_found_in_sources(text, found):
    assert paths_of_source(text) == found


def test_links_and_anchors_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n## What it stores: `x`, and more\n")
    text = "[a](page.md) ![b](gone.png) [c](page.md#what-it-stores-x-and-more) [d](page.md#gone) [e](https://x.org/y)"
    assert list(broken_links(text, page)) == ["gone.png", "page.md#gone"]
    assert list(broken_links("[f](#a-page) [g](#another)", page)) == ["#another"]


def test_the_drawing_is_read():
    drawing = ["params.yaml  dvc.yaml   the study", "flashdiff/              all"]
    drawing += ["    a.py                what", "    b/                  so", "docs/                   more"]
    text = "\n".join(["## The house", "", "```", *drawing, "```", ""])
    assert list(paths_of_tree(text)) == [
        "params.yaml",
        "dvc.yaml",
        "flashdiff/",
        "flashdiff/a.py",
        "flashdiff/b/",
        "docs/",
    ]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("docs/decisions.md", True),
        ("docs/gone.md", False),
        ("decisions.md", True),  # a bare name
        ("gone.md", False),
        ("degradations/", True),  # a room of the package
        ("flashdiff/solvers/NAME.py", True),
        ("flashdiff/solvers/NAME.txt", False),
        ("data/severity/NAME.recipe.json", True),  # made by a study
        (".build/source/NAME.txt", True),
        ("buildings/x", False),
        ("owner/name", True),
        ("flashdiff/EXTRA.py", False),  # X inside a word is no placeholder
    ],
)
def test_what_exists(path, there):
    assert exists(path) is there
