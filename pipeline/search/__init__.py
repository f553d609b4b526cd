"""Search over a published snapshot: open, fan out, merge, re-rank exactly. Nothing is published here."""
