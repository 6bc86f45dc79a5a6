"""`python -m stages.command …`: the command line, where no script of that name is installed."""

from ft_dagster.cli import main

if __name__ == "__main__":
    main()
