"""The one exception that a user's input can raise."""


class InputError(Exception):
    """Something the user gave is wrong: a path, a file's content, a recipe key or value.

    The message is one readable sentence that names the file, key or value and says what would be right.
    The command line prints it without a traceback and leaves with exit code 2.
    """
