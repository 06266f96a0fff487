"""Errors of bulk pricing; the text of each is one line.

BulkError
├── BadInput          no file is found, or a format or file system is unknown
├── OutputExists      the output exists already, or others use its name
├── OtherRun          the work folder belongs to a run with other input or options
├── RunInProgress     another process works on this output
├── BadReports        the file of reports breaks its contract
├── NoEngine          the engine is not installed, or its cluster cannot be used
└── RunFailed         the run cannot go on; what it has done is kept
UnreadablePiece       a part of the input cannot be read
"""


class BulkError(Exception):
    """A run that does not start, or does not end."""


class BadInput(BulkError):
    """No file is found, or a format or file system is unknown."""


class OutputExists(BulkError):
    """The output exists already, or others use its name."""


class OtherRun(BulkError):
    """The work folder belongs to a run with other input or options."""


class RunInProgress(BulkError):
    """Another process works on this output."""


class BadReports(BulkError):
    """The file of reports breaks its contract."""


class NoEngine(BulkError):
    """The engine is not installed, or its cluster cannot be used."""


class RunFailed(BulkError):
    """The run cannot go on; what it has done is kept."""


class UnreadablePiece(Exception):
    """A part of the input cannot be read; the rest of the input is priced."""
