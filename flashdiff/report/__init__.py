"""From rows to what a reader opens: intervals, tables, figures, claims, the page."""
