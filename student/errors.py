"""The one exception of this package that a user's mistake can cause."""


class StudentError(Exception):
    """A run's configuration, data or files do not allow training or evaluation.

    The message names the file or the setting and the remedy; the command line prints it alone,
    without a traceback.
    """


class BusyError(StudentError):
    """Another process is working in the same folder."""
