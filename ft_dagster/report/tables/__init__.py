"""Shows results as rows of tables: of variants, experiments, versions and what they were made of."""
