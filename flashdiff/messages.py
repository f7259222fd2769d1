"""What the user is told while something runs."""

import sys

from tqdm import tqdm


def say(sentence: str) -> None:
    """Tell the user, on stderr and without tearing progress bars."""
    tqdm.write(sentence, file=sys.stderr)
