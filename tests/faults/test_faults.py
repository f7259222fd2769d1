"""A few of the faults of `make faults`, always the same: after each chain a rerun gives the undisturbed run's results."""

import re
import subprocess
import sys
from pathlib import Path

WHOLE_RUN = Path(__file__).with_name("whole_run.py")
STAGES = ["download", "prior", "train_severity", "tune", "baseline"]


def test_after_a_fault_a_rerun_equals_the_undisturbed_run(tmp_path):
    """In a process of its own: it forks, and this one has threads."""
    into = tmp_path / "table.md"
    command = [sys.executable, WHOLE_RUN, "--faults", "14", "--into", into, "--only", *STAGES]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    counts = [int(count) for count in re.findall(r"^[|] [^|]+ [|] ([0-9]+) [|]", into.read_text(), re.MULTILINE)]
    assert sum(counts) >= 14 and len(counts) >= 6
