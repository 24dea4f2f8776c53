"""Filters of tracks: `licence in ('CC0', 'CC-BY') and duration < 120`, parsed here and computed by pyarrow."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.retrieval.index_tracks import check_pyarrow
from viml_hf.retrieval.licence_ids import licence_family, licence_id

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:  # as in index_tracks
    pa = pc = None

MAX_LENGTH, MAX_DEPTH = 10_000, 50
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<column>\"[^\"]+\"|`[^`]+`)|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?!\w)"
    r"|(?P<operator><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\W\d]\w*))",
    re.IGNORECASE,
)
_SAME = {"==": "=", "<>": "!="}
_ACCEPTED = "write such as: licence in ('CC0', 'CC-BY') and duration < 120"

Value = str | float | bool


@dataclass(frozen=True)
class Comparison:
    """A column compared with values: by `=`, `!=`, `<`, `<=`, `>`, `>=`, or `in`; with none of them, `is null`."""

    column: str
    operator: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Combination:
    """Conditions combined by `and`, `or` or `not`."""

    operator: str
    parts: tuple["Comparison | Combination", ...]


Condition = Comparison | Combination


def parse_where(text: str) -> Condition:
    """The condition that an expression states.

    It compares columns with texts in single quotes, numbers, `true` and `false`: `=`, `!=`, `<`, `<=`, `>`, `>=`,
    `in (…)`, `not in (…)`, `between … and …`, `is null`, `is not null`; combined by `and`,
    `or`, `not` and parentheses. A column whose name is not a word goes in double quotes or backquotes.

    Raises:
        ViMLError: It is none.

    Example:
        >>> parse_where("bpm >= 90 and not mood = 'sad'").parts[0]
        Comparison(column='bpm', operator='>=', values=(90.0,))
    """
    if not isinstance(text, str) or not text.strip():
        raise ViMLError(f"where={text!r}: not a condition; {_ACCEPTED}")
    if len(text) > MAX_LENGTH:
        raise ViMLError(f"where: {len(text)} characters; give {MAX_LENGTH} at most")
    return _Parser(text).whole()


class _Parser:
    """A condition, read token by token: each method takes what it is named after."""

    def __init__(self, text: str):
        self.text = text
        self.depth = 0
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, place
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                self.tokens.append(("other", text[place : place + 1], place))
                break
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind], found.start(kind)))
            place = found.end()
        self.tokens.append(("end", "", len(text)))
        self.at = 0

    def whole(self) -> Condition:
        condition = self.either()
        if self.tokens[self.at][0] != "end":
            raise self.unexpected("and, or, or the end")
        return condition

    def either(self) -> Condition:
        return self.combined("or", self.both)

    def both(self) -> Condition:
        return self.combined("and", self.single)

    def combined(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self.takes(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Combination(word, tuple(parts))

    def single(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ViMLError(f"where: nested deeper than {MAX_DEPTH} levels; give a simpler condition")
        if self.takes("not"):
            condition: Condition = Combination("not", (self.single(),))
        elif self.takes("("):
            condition = self.either()
            self.expect(")")
        else:
            condition = self.comparison()
        self.depth -= 1
        return condition

    def comparison(self) -> Condition:
        kind, column, _ = self.tokens[self.at]
        if kind not in ("word", "column"):
            raise self.unexpected("the name of a column")
        self.at += 1
        column = column if kind == "word" else column[1:-1]
        if self.takes("is"):
            negated = self.takes("not")
            self.expect("null")
            found: Condition = Comparison(column, "is null")
        elif (negated := self.takes("not")) or self.tokens[self.at][1].lower() in ("in", "between"):
            found = self.between(column) if self.takes("between") else self.among(column)
        else:
            operator = self.tokens[self.at][1]
            if self.tokens[self.at][0] != "operator" or operator in "(),":
                raise self.unexpected("=, !=, <, <=, >, >=, in, between or is null")
            self.at += 1
            return Comparison(column, _SAME.get(operator, operator), (self.value(),))
        return Combination("not", (found,)) if negated else found

    def between(self, column: str) -> Condition:
        lowest = self.value()
        self.expect("and")
        ends = Comparison(column, ">=", (lowest,)), Comparison(column, "<=", (self.value(),))
        return Combination("and", ends)

    def among(self, column: str) -> Condition:
        self.expect("in")
        self.expect("(")
        values = [self.value()]
        while self.takes(","):
            values.append(self.value())
        self.expect(")")
        return Comparison(column, "in", tuple(values))

    def value(self) -> Value:
        kind, text, _ = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return float(text)
        if kind == "word" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        self.at -= 1
        raise self.unexpected("a text in single quotes, a number, true or false")

    def takes(self, word: str) -> bool:
        kind, text, _ = self.tokens[self.at]
        found = kind in ("word", "operator") and text.lower() == word
        self.at += found
        return found

    def expect(self, word: str) -> None:
        if not self.takes(word):
            raise self.unexpected(word)

    def unexpected(self, wanted: str) -> ViMLError:
        kind, text, place = self.tokens[self.at]
        found = "the end" if kind == "end" else f"{text!r} at character {place + 1}"
        return ViMLError(f"where={self.text!r}: {found} where {wanted} should be; {_ACCEPTED}")


def columns_of(condition: Condition) -> set[str]:
    """The columns that a condition names."""
    if isinstance(condition, Comparison):
        return {condition.column}
    return {name for part in condition.parts for name in columns_of(part)}


def check_columns(condition: Condition, tables: Sequence["pa.Table"]) -> None:
    """Refuse a condition on a column that none of the tables of tracks has."""
    there = dict.fromkeys(name for table in tables for name in table.column_names)
    if missing := sorted(columns_of(condition) - there.keys()):
        raise ViMLError(f"where: no column {missing[0]!r}; there are {', '.join(there)}")


def matching_tracks(condition: Condition, tables: Sequence["pa.Table"]) -> list[np.ndarray]:
    """Per table of tracks which rows `(tracks,)` bool meet a condition. What a row lacks meets none but `is null`.

    `licence` is compared by the short name of `licence_id`; a name without a version stands for all versions. A list of
    texts, such as `tags`, equals each of its texts.

    Raises:
        ViMLError: None of the tables has such a column, or it cannot be compared with such a value.
    """
    check_pyarrow()
    check_columns(condition, tables)
    return [_mask(condition, table).fill_null(False).to_numpy(zero_copy_only=False) for table in tables]


def _mask(condition: Condition, table: "pa.Table") -> "pa.Array":
    """True, false or null for each row."""
    if isinstance(condition, Combination):
        first, *others = (_mask(part, table) for part in condition.parts)
        if condition.operator == "not":
            return pc.invert(first)
        for other in others:
            first = (pc.and_kleene if condition.operator == "and" else pc.or_kleene)(first, other)
        return first
    if condition.column not in table.column_names:
        column = pa.nulls(len(table))
    else:
        column = table[condition.column].combine_chunks()
    if condition.operator == "is null":
        return pc.is_null(column)
    if pa.types.is_null(column.type):
        return pa.nulls(len(table), pa.bool_())
    is_equality = condition.operator in ("=", "!=", "in")
    if condition.column == "licence" and is_equality:
        same = _same_licence(column, condition.values)
    elif is_equality and _holds_texts(column.type) and all(isinstance(value, str) for value in condition.values):
        same = _holding(column, condition.values)
    else:
        same = _compared(column, condition)
    return pc.invert(same) if condition.operator == "!=" else same


_ORDER = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}


def _compared(column: "pa.Array", condition: Comparison) -> "pa.Array":
    """A column compared with each value; a text column is compared with numbers where its texts are numbers."""
    found = None
    for value in condition.values:
        fits = column
        if pa.types.is_boolean(column.type) != isinstance(value, bool) or pa.types.is_nested(column.type):
            kind = "truth values" if pa.types.is_boolean(column.type) else f"of type {column.type}"
            raise ViMLError(f"where: the column {condition.column!r} is {kind}; {value!r} cannot be compared with it")
        if isinstance(value, str) and not pa.types.is_string(column.type):
            raise ViMLError(f"where: the column {condition.column!r} holds numbers, and {value!r} is a text")
        if isinstance(value, float) and pa.types.is_string(column.type):
            numeric = pc.match_substring_regex(column, r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$")
            fits = pc.cast(pc.utf8_trim_whitespace(pc.if_else(numeric, column, None)), pa.float64())
        compare = getattr(pc, _ORDER.get(condition.operator, "equal"))
        scalar = pa.scalar(value, pa.float64()) if isinstance(value, float) else pa.scalar(value)
        one = compare(fits, scalar)
        found = one if found is None else pc.or_kleene(found, one)
    return found


def _holds_texts(kind: "pa.DataType") -> bool:
    # Where all lists are empty, their texts are of no type.
    return pa.types.is_list(kind) and (pa.types.is_string(kind.value_type) or pa.types.is_null(kind.value_type))


def _holding(column: "pa.Array", values: Sequence[Value]) -> "pa.Array":
    """Whether a list holds one of the texts, null where there is none."""
    there = pc.is_in(pc.list_flatten(column).cast(pa.string()), value_set=pa.array(values, pa.string()))
    found = np.zeros(len(column), bool)
    found[pc.list_parent_indices(column).filter(there).to_numpy()] = True
    return pa.array(found, mask=pc.is_null(column).to_numpy(zero_copy_only=False))


def _same_licence(column: "pa.Array", values: Sequence[Value]) -> "pa.Array":
    """Whether a licence is one of those named, null where there is none."""
    wanted = {licence_id(str(value)) for value in values}
    coded = column.dictionary_encode()
    names = [licence_id(name) for name in coded.dictionary.to_pylist()]
    same = pa.array([name in wanted or licence_family(name) in wanted for name in names], pa.bool_())
    return same.take(coded.indices)
