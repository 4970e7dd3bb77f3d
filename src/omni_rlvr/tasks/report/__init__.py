"""task=report: runs side by side in tables, figures and one page."""
