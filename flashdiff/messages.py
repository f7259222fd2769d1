"""What the user is told while something runs."""

import sys

from tqdm import tqdm


def say(sentence: str) -> None:
    """Tell the user, on stderr and without tearing progress bars."""
    tqdm.write(printable(sentence), file=sys.stderr)


def printable(text: str) -> str:
    """The text with escapes for what no file and no notebook could hold: bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def without_advice(reason: str) -> str:
    """What torch says, in one line, of a file that it refused, without its advice to execute the file."""
    return reason.partition(" In PyTorch 2.6")[0]


def duration(seconds: float) -> str:
    """A span as exact as an estimate deserves: "45 s", "12 min", "1 h 5 min", "11 h"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    if hours >= 10 or not minutes:
        return f"{seconds / 3600:.0f} h"
    return f"{hours} h {minutes} min"
