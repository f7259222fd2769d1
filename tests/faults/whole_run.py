"""`make faults`: faults in every stage of a tiny study, one after another, and a table of what happened.

python tests/faults/whole_run.py [--faults 200] [--seed 0] [--only STAGE ...] [--into TABLE.md]
"""

import argparse
import collections
import sys
import tempfile
from pathlib import Path

import numpy as np
from campaign import STAGES, Trial, chain, kinds_in_turn, load_libraries, tiny_study
from injection import mounted


def table(trials: list[Trial]) -> str:
    """Kinds of faults, how often each came, in which stages, and what became of their chains, as Markdown."""
    times, stages, verdicts = (
        collections.Counter(),
        collections.defaultdict(set),
        collections.defaultdict(collections.Counter),
    )
    for trial in trials:
        for kind in trial.faults:
            times[kind] += 1
            stages[kind].add(trial.stage)
            verdicts[kind]["wrong" if not trial.ok else trial.verdict] += 1
    lines = ["| fault | how often | kinds of stages | after the rerun |", "| --- | --- | --- | --- |"]
    for kind, count in sorted(times.items()):
        said = ", ".join(f"{number} {verdict}" for verdict, number in verdicts[kind].most_common())
        lines.append(f"| {kind} | {count} | {len(stages[kind])} | {said} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="stages; those before them run, too")
    parser.add_argument("--into", type=Path, help="a file for the table")
    options = parser.parse_args()
    load_libraries()
    rng, trials = np.random.default_rng(options.seed), []
    with tempfile.TemporaryDirectory() as folder, mounted(Path(folder)) as small_disk:
        whole = tiny_study(Path(folder) / "repository")
        stages = [whole.stages[name] for name in options.only]
        for name, stage in whole.stages.items():
            if STAGES.index(name) <= max(map(STAGES.index, options.only)):
                whole.measure(stage)
                print(f"{name}: {whole.seconds[name]:.1f} s, {whole.writes[name]} writes", flush=True)
        kinds, done = kinds_in_turn(rng, small_disk), 0
        while done < options.faults:
            trial = chain(whole, stages[len(trials) % len(stages)], next(kinds), rng)
            trials.append(trial)
            done += len(trial.faults)
            print(
                f"[{done}/{options.faults}] {trial.stage}: {trial.verdict if trial.ok else 'WRONG: ' + trial.verdict}",
                flush=True,
            )
            for said in trial.said:
                print(f"    {said[:300]}", flush=True)
            if options.into:
                options.into.write_text(table(trials))
    print(table(trials))
    return 0 if all(trial.ok for trial in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
