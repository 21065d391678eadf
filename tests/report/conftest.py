import pytest

from esm1b.report import page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures empty: what a page says does not depend on them, and they take seconds."""
    for name in ("corpus_figure", "training_figure", "evaluation_figure"):
        monkeypatch.setattr(page, name, lambda *arguments: "<svg></svg>")
