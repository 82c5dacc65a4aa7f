"""The one exception of this package that a user's mistake can cause."""


class CacheError(Exception):
    """A tutor cache is missing, incomplete, damaged, or does not fit what is asked of it.

    The message names the file or the setting and the remedy; the command line prints it alone,
    without a traceback.
    """
