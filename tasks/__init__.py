"""One file per stage: download, split, transform, train, evaluate, register. All side effects live here."""
