"""The errors and warnings of mrsxr: each says what was found, what was expected and what to do."""

import re


def one_line(text: object) -> str:
    """Return a text as one line that every terminal and file can show: no control characters, no half characters."""
    line = re.sub(r"[ ]*[\x00-\x1f\x7f-\x9f\u2028\u2029]+\s*", " ", str(text))
    return line.encode("utf-8", "backslashreplace").decode().strip()


class MrsxrError(Exception):
    """Base of every error that mrsxr raises on purpose; its text is one clear line.

    ``exit_code`` is that of a command that ends by it.
    """

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class SchemaError(MrsxrError):
    """A Dataset does not fit the schema of its level (variable, dims, dtype or units)."""


class LevelError(MrsxrError):
    """A step was given data of another level than it needs."""


class ParameterError(MrsxrError, ValueError):
    """A parameter is of another type, not among its choices or out of its range."""


class ReferenceFileError(MrsxrError):
    """A reference file is missing, unreadable or made for another detector, band or subarray."""


class ReferenceMissingError(ReferenceFileError):
    """The source of reference files has none of a kind; where one is there but damaged or wrong, it is its parent."""


class InputFileError(MrsxrError):
    """An exposure or product file is missing, truncated, of another instrument or lacks a keyword."""


class MrsxrDeprecationWarning(FutureWarning):
    """A name that goes away is used; the text says in which version, and what to use."""


class MrsxrWarning(UserWarning):
    """An oddity of the data that a user should know of; the result is still valid."""
