"""An evaluation on a data set with published scores prints them beside its own, and keeps them."""

from __future__ import annotations


def test_an_evaluation_shows_and_keeps_it(runner, capsys) -> None:
    theirs = [
        "+dataset.published_scores.Theirs=[12.5,11.25]",
        "dataset.published_scores_note=a book",
    ]
    folder = runner(*runner.evaluate, *theirs)
    kept = (folder / "published.md").read_text()
    assert "| Theirs |  | 12.50 | 11.25 |" in kept
    assert "published: a book" in kept
    assert kept in capsys.readouterr().out
    assert not (runner(*runner.evaluate) / "published.md").exists()
