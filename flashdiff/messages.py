"""What the user is told while something runs."""

import sys

from tqdm import tqdm


def say(sentence: str) -> None:
    """Tell the user, on stderr and without tearing progress bars."""
    tqdm.write(printable(sentence), file=sys.stderr)


def printable(text: str) -> str:
    """The text with escapes for what no file and no notebook could hold: bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
