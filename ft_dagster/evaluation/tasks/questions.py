"""Reads what an lm-eval task asks: whole, by which a question is known; bare, which must not be trained on.

Imports no lm-eval: a task is what `load_task` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ft_dagster.data.rows.content import identity_of, normal_text, question_ids, words_of
from ft_dagster.data.rows.decontaminate import EvaluationItem, sought_words
from ft_dagster.evaluation.tasks.task_files import score_names

LEAST_DOCUMENTS = 8  # of fewer, what all begin with may be what they say, and no template


class RenderedQuestion(NamedTuple):
    """Holds a question as the model reads it, its choices, its right answers."""

    question: str
    choices: tuple[str, ...]
    answers: tuple[str, ...]


def asked_of(task: Any, doc: Any) -> RenderedQuestion:
    """Render a document of a task, without examples before it."""
    question, target = task.doc_to_text(doc), task.doc_to_target(doc)
    choices = tuple(map(str, task.doc_to_choice(doc))) if task.config.doc_to_choice else ()
    if isinstance(question, int):  # a task whose choices are whole sentences, such as winogrande
        question = choices[question]
    answers = target if isinstance(target, list) else [target]
    right = [choices[a] if isinstance(a, int) and a < len(choices) else a for a in answers]
    return RenderedQuestion(str(question), choices, tuple(map(str, right)))


def questions_of(task: Any) -> list[str]:
    """Return the id of each document of a task, in order: of its content alone, wherever it stands."""
    return question_ids([_identity(asked_of(task, doc)) for doc in task.eval_docs])


def metrics_of(task: Any) -> list[str] | None:
    """Return the metrics of a task, see `score_names`."""
    return score_names(list(task.aggregation()), {**vars(task.config), "output_type": task.OUTPUT_TYPE})


def bare_items(task: Any, name: str) -> Iterator[EvaluationItem]:
    """Yield each document's question without the words of the task's template, and its right answers.

    The question is given whole, and by each field of the document that stands in it: with a template around
    several fields, no row has them in that order. What every document begins or ends with is the template's.
    """
    docs = list(task.eval_docs)
    asked = [asked_of(task, doc) for doc in docs]
    questions = _without_template([each.question for each in asked])
    queries = _without_template([_query(task, doc) for doc in docs])
    same = _same_fields(docs)
    for doc, each, question, query in zip(docs, asked, questions, queries, strict=True):
        fields = _fields_in(each.question, doc, same)
        texts = dict.fromkeys(text for text in (question, query, *fields) if text)
        yield EvaluationItem(tuple(texts), tuple(map(_apart, _answers(each, doc))), name)


def _identity(asked: RenderedQuestion) -> bytes:
    parts = [("question", asked.question)]
    parts += [("choice", choice) for choice in asked.choices]
    parts += [("answer", answer) for answer in asked.answers]
    return identity_of("question", [(role, normal_text(text)) for role, text in parts])


def _query(task: Any, doc: Any) -> str:
    """Return the text that the task itself wants searched in training data; nothing where it says nothing, or
    what cannot be read: lm-eval evaluates a template's words as Python, and the template is made from the
    same fields.
    """
    try:
        asks = getattr(task, "should_decontaminate", lambda: False)()
        return str(task.doc_to_decontamination_query(doc)) if asks else ""
    except (SyntaxError, ValueError):
        return ""


def _words(text: str) -> Sequence[str]:
    return sought_words(words_of(normal_text(text)))


def _apart(text: str) -> str:
    """Return a text as it is; one of a script without spaces by its words, as questions are written."""
    words = words_of(normal_text(text))
    sought = sought_words(words)
    return text if sought is words else " ".join(sought)


def _without_template(texts: Sequence[str]) -> list[str]:
    """Return the words of each text but those that all begin and end with."""
    words = [list(_words(text)) for text in texts]
    if len(words) < LEAST_DOCUMENTS:
        return [" ".join(each) for each in words]
    before = _common(words)
    after = _common([each[before:][::-1] for each in words])
    return [" ".join(each[before : len(each) - after]) for each in words]


def _common(texts: Sequence[list[str]]) -> int:
    """Count the words that all texts begin with."""
    shortest, longest = min(texts), max(texts)  # in alphabetical order: what these share, all between do
    same = (one == other for one, other in zip(shortest, longest, strict=False))
    return next((at for at, equal in enumerate(same) if not equal), min(len(shortest), len(longest)))


def _same_fields(docs: Sequence[Any]) -> set[str]:
    """Return the fields that say the same in every document: a name of the data set, an instruction."""
    if len(docs) < LEAST_DOCUMENTS or not isinstance(docs[0], dict):
        return set()
    return {name for name, value in docs[0].items() if all(doc.get(name) == value for doc in docs)}


def _fields_in(question: str, doc: Any, same: set[str]) -> Iterator[str]:
    """Yield the document's fields that stand in its question."""
    asked = f" {' '.join(_words(question))} "
    for name, value in doc.items() if isinstance(doc, dict) else ():
        if isinstance(value, str) and name not in same:
            words = " ".join(_words(value))
            if words and f" {words} " in asked:
                yield words


def _answers(asked: RenderedQuestion, doc: Any) -> list[str]:
    """Return the right answers; of one that is a letter, what the document says under it, and not the
    letter.
    """
    found: dict[str, None] = {}
    for answer in filter(str.strip, asked.answers):
        if answer in asked.choices:
            place = asked.choices.index(answer)
            found |= {said[place]: None for said in _lists_in(doc) if len(said) == len(asked.choices)}
        found[answer] = None
    words = [answer for answer in found if len(answer.strip()) > 1]
    return words or list(found)


def _lists_in(tree: Any) -> Iterator[list[str]]:
    """Yield the lists of texts in a document, however deep in its mappings."""
    for value in tree.values() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _lists_in(value)
        elif isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            yield value
