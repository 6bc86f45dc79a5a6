"""Names what takes longest: it is tested first, so that no worker of pytest-xdist is left alone with it."""

LONGEST = (
    "training/test_ranks",
    "automation/experiments/",
    "compat/",
    "e2e/",
    "automation/",
    "chaos/",
    "training/",
    "export/",
    "stages/",
    "launch/",
)
