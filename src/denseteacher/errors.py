"""The two exceptions whose message is meant for the user, and how text from files is shown to them."""

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that a terminal obeys or can't show: controls, writing directions, lone surrogates."""


def visible(text: str) -> str:
    """A text in which each character that could command a terminal stands as its escape, but for line breaks.

    Names of files and classes are data: they may hold ANSI and OSC sequences, and bytes that are not text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one if one in "\n\u200d" or unicodedata.category(one) not in _UNSEEN else one.encode("unicode_escape").decode()
        for one in text
    )


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
