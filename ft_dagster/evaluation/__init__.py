"""Measures what a model can do: lm-eval's benchmarks, the variant's own task, held-out general text, and the
gate.

`python -m ft_dagster.evaluation RUN_DIR` measures (torch and lm-eval live there alone); `tasks`, `samples`,
`gates` and `skills` are light, for the code location and the command line.
"""
