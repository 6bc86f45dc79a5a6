"""Projects and files of the tests of data."""

from tests.data.fixtures import corpus, project, put, questions, refused, rows, variant, write

__all__ = ["corpus", "project", "put", "questions", "refused", "rows", "variant", "write"]
