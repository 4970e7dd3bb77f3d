"""task=report: compare runs in tables, figures and one page."""
