"""The two exceptions whose message is meant for the user."""


class InputError(Exception):
    """Something the user gave is wrong: a path, a file's content, a recipe key or value.

    The message is one readable sentence that names the file, key or value and says what would be right.
    The command line prints it without a traceback and leaves with exit code 2.
    """


class RunError(Exception):
    """The run failed for a reason outside the user's input, such as a full disk.

    The message is one readable sentence. The command line prints it without a traceback and leaves with exit
    code 1.
    """
