"""The one exception of this package that a user's mistake can cause."""


class TutorError(Exception):
    """A tutor cannot be loaded, or returned something that cannot be true.

    The message names the file or the setting and the remedy; the command line prints it alone,
    without a traceback.
    """
