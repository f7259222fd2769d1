"""The fixed profile of every test run, and at the end of the whole run (`make properties`) the table for docs/trust.md."""

from hypothesis import settings
from property_cases import COUNTS, GOOD, ORDINARY, REFUSED, WHOLE

if settings.get_current_profile_name() != WHOLE:
    settings.load_profile(ORDINARY)


def pytest_terminal_summary(terminalreporter, config):
    if settings.get_current_profile_name() != WHOLE or not COUNTS:
        return
    kinds = list(dict.fromkeys(what for what, _ in COUNTS))
    rows = [(kind, COUNTS[kind, REFUSED], COUNTS[kind, GOOD]) for kind in kinds]
    rows.append(("in all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    terminalreporter.write_line(f"| what was generated | {REFUSED} | {GOOD} |\n| --- | --- | --- |")
    for row in rows:
        terminalreporter.write_line("| {} | {} | {} |".format(*row))
