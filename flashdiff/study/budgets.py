"""Few-step walks: a mean number of evaluations is given, tuned on validation images and measured on test images.

The adaptive walk starts every image where its severity says and takes more steps from higher starts; how many is what
meets the budget on validation images. Held against it at the same budget: one start for all images with as many steps.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from flashdiff.flash import Flash
from flashdiff.severity import Severity, latent_error_variance
from flashdiff.starts import SHORT_STARTS
from flashdiff.study.comparison import Bench, best, combinations, run_stored, shuffled_severity, tabulate
from flashdiff.study.tuned import few_step_of
from flashdiff.walks import Growing

OBJECTIVES = ("psnr", "perceptual")
"""What a few-step walk is tuned for: large and small steps differ in these two, so each is compared tuned for itself."""
RUNS = ".build/budgets/{pair}/run"
"""Where the walks of a pair lie, below the study's folder, until their stage has saved its results."""
Choice = Mapping[str, Mapping]
"""{"solver": a whole solver entry, walk included; "start": {"rule": one of SHORT_STARTS, and its options}}."""


def rate_for(starts: np.ndarray, evaluations: float, power: float) -> float:
    """The rate of :class:`flashdiff.walks.Growing` whose walks from ``starts`` (n,) >= 0 take nearly ``evaluations`` steps.

    They take at most as many on average; rates are tried 0.5% apart. Raises ValueError below 1, which no walk meets.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations: {evaluations:g} on average; a walk takes at least one, give 1 or more.")
    rates = 1.005 ** np.arange(-1500, 1500)  # from every walk of a single step to every index visited
    # the mean rises with the rate: the last that meets the budget stands before where more would be inserted
    means = [Growing(rate, power).steps(starts).mean() for rate in rates]
    return float(rates[np.searchsorted(means, evaluations, side="right") - 1])


def adaptive_choices(
    bench: Bench, evaluations: float, solver: Mapping, fields: Mapping, rules: Mapping[str, Mapping],
    powers: Sequence[float],
) -> list[Choice]:  # fmt: skip
    """All few-step settings that start where the severity says: start rules with their options, and how steps grow.

    rules: {start rule: {option: values}}; each rate meets the budget on the bench. Powers that lead to the same numbers of
    steps as one before are left out.
    """
    choices, variance = [], bench.severity.variance.to(bench.prior.abar.device)
    for rule, options in ((rule, chosen) for rule, grid in rules.items() for chosen in combinations(grid)):
        start, seen = SHORT_STARTS[rule](**options), []
        index = start.index(bench.prior, variance)
        left = evaluations - float(start.cost(index).double().mean())
        for power in powers:
            walk = {"kind": "growing", "rate": rate_for(index.cpu().numpy(), left, power), "power": power}
            if (steps := Growing(walk["rate"], power).steps(index.cpu().numpy()).tolist()) in seen:
                continue
            seen.append(steps)
            choices += [
                {"solver": {**solver, **chosen, "walk": walk}, "start": {"rule": rule, **options}}
                for chosen in combinations(fields)
            ]
    return choices


def fixed_choices(
    evaluations: float, solver: Mapping, fields: Mapping, starts: Sequence[int], fresh: Sequence[float]
) -> list[Choice]:
    """All few-step settings that start every image at one index, with as many steps as the budget allows."""
    walk = {"kind": "evenly_spaced", "steps": max(1, int(evaluations))}
    return [
        {"solver": {**solver, **chosen, "walk": walk}, "start": {"rule": "fixed", "index": index, "fresh": share}}
        for index, share, chosen in itertools.product(starts, fresh, combinations(fields))
    ]


def few_step(bench: Bench, choice: Choice) -> Flash:
    """Flash as a few-step setting says."""
    return few_step_of(bench.prior, bench.encoder, choice, **bench.options)


def tune(
    bench: Bench, evaluations: Sequence[float], walks: Sequence[Mapping], starts: Sequence[int], fresh: Sequence[float],
    adaptive: Mapping[str, Mapping], powers: Sequence[float],
) -> tuple[dict[str, dict[str, dict[str, Choice]]], pd.DataFrame]:  # fmt: skip
    """Choose the settings of every method at every budget, once per objective, on ``bench``'s validation images.

    walks: [{"solver": entry, "candidates": {field: values}}, ...]; the first is the one that fixed starts take, too, the
    others are tuned with adaptive starts alone. starts, fresh: the grid of fixed starts; adaptive: {start rule: {option:
    values}}; powers: how the steps of adaptive walks grow with the start.
    Returns {budget: {method: {objective: choice}}} for the methods adaptive, fixed, forward (the fixed start whose noise is
    all fresh, CCDF of Chung et al. 2022) and one named after the kind of every further walk's solver, and the table of trials.
    """
    chosen: dict[str, dict[str, dict[str, Choice]]] = {}
    trials = []
    for budget in evaluations:
        first, *others = walks
        tried = {
            "adaptive": adaptive_choices(bench, budget, first["solver"], first["candidates"], adaptive, powers),
            "fixed": fixed_choices(budget, first["solver"], first["candidates"], starts, fresh),
        }
        for walk in others:
            tried[walk["solver"]["kind"]] = adaptive_choices(
                bench, budget, walk["solver"], walk["candidates"], adaptive, powers
            )
        found = []
        for method, choices in tried.items():
            for choice in choices:
                result = few_step(bench, choice)(bench.measurement, bench.severity, title=f"{budget:g} {method}")
                means = {name: float(np.mean(value)) for name, value in bench.quality(result.images).items()}
                nfe = float(result.nfe.double().mean())
                found.append({"budget": budget, "method": method, "choice": choice, "nfe": nfe, **means})
        methods = {method: [t for t in found if t["method"] == method] for method in tried}
        methods["forward"] = [t for t in methods["fixed"] if t["choice"]["start"]["fresh"] == 1]
        chosen[f"{budget:g}"] = {
            method: {objective: best(candidates, objective) for objective in OBJECTIVES}
            for method, candidates in methods.items()
            if candidates
        }
        trials += found
    table = pd.DataFrame(trials)
    table["choice"] = table["choice"].map(json.dumps)
    return chosen, table


def walks_of(bench: Bench, chosen: Mapping, controls: bool = True) -> Iterator[tuple[str, Choice, Severity]]:
    """Every run of the comparison: its name BUDGET/METHOD/OBJECTIVE, its setting, and the severity it is told.

    Beside the methods of :func:`tune`: no_diffusion, D(z_hat), whose budget is 0; and with ``controls``, for the adaptive walk
    tuned for PSNR: shuffled (the severities of other images) and oracle (the true error in place of the predicted one).
    """
    nothing = {"rule": "fixed", "index": -1, "fresh": 0.0}
    yield "0/no_diffusion/psnr", {"solver": dict(bench.solver), "start": nothing}, bench.severity
    truth = bench.prior.encode_in_slices(bench.truth)
    told = {
        "shuffled": shuffled_severity(bench),
        "oracle": bench.severity._replace(variance=latent_error_variance(bench.severity.z_hat, truth)),
    }
    for budget, methods in chosen.items():
        for method, objectives in methods.items():
            for objective, choice in objectives.items():
                yield f"{budget}/{method}/{objective}", choice, bench.severity
        for control, severity in told.items() if controls else ():
            yield f"{budget}/{control}/{OBJECTIVES[0]}", methods["adaptive"][OBJECTIVES[0]], severity


def walk(bench: Bench, chosen: Mapping, folder: str, *, controls: bool = True) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Run every method at every budget on the bench's test images: rows (image x run), and what every run cost.

    Columns budget, method and tuned_for say which run a row belongs to; the others are those of
    :func:`flashdiff.study.comparison.tabulate`. Methods whose settings for two objectives agree run once. What is finished
    lies below ``folder``, and an interrupted run continues there.
    """
    names: dict[str, list[str]] = {}
    runs = {}
    for name, choice, severity in walks_of(bench, chosen, controls):
        budget, method, _ = name.split("/")
        key = f"{budget}/{method}/{json.dumps(choice, sort_keys=True)}"
        if key not in runs:
            runs[key] = (name, few_step(bench, choice), severity)
        names.setdefault(runs[key][0], []).append(name)
    results = run_stored(bench, runs.values(), folder, {"chosen": chosen})
    table, timings = tabulate(bench, results)
    parts = [table[table.method == ran].assign(method=name) for ran, same in names.items() for name in same]
    rows = pd.concat(parts, ignore_index=True)
    head = rows.pop("method").str.split("/", expand=True)
    rows.insert(0, "budget", head[0].astype(float))
    rows.insert(1, "method", head[1])
    rows.insert(2, "tuned_for", head[2])
    return rows, timings
