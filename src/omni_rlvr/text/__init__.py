"""Text: prompts, what a completion says, templates of pages, and what a terminal can show."""
