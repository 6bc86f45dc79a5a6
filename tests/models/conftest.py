"""Projects and files, as the tests of data have them."""

from tests.data.fixtures import corpus, project, put, questions, variant, write

__all__ = ["corpus", "project", "put", "questions", "variant", "write"]
