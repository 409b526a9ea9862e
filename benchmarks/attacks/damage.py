"""Seeded damage to bytes, values, texts and files."""

import copy
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

NASTY = (
    *("", "0", "-1", "9" * 400, "9" * 5000, "1e999", "-1e308", "nan", "inf", ".inf", "0x_", "1:30", "2001-99-99"),
    *("3.0", "yes", "null", "true", "~", "\ud800", "a\0b", "x" * 300, "\x1b[31m", "\x1b]0;x\x07", "=1+1", "[/red]"),
    *("../a.png", "/etc/passwd", "/", "..", "C:\\a.png", "file:///a.png", "http://h/a.png?x=1", "%ff.png", "?d=a"),
    *("hf-hub:someone/model", "local-dir:/etc", "*a", "&a ", "<<: ", "- ", "|", "\t", "!!python/name:os.system "),
    *("{{x}}", "$^$", "\u202e", "\U0001f600", "\r", "\n\n", "'", '"', "#"),
    *("<object>", "</annotation>", "<a>" * 50, "&x;", "<!DOCTYPE a>"),
)  # fmt: skip
"""Texts that some reader, somewhere, has not been ready for."""
_VALUES = (
    *(None, True, False, 0, -1, 1, 7, 0.5, 10**400, -(10**400), 2**63, 1e308, -1e308, 1e-320, 1e15),
    *([], {}, [[]], [1, 2], {"a": 1}, [0, 0, 0, 0], [None] * 4, [10**30] * 4),
)
_WORD = re.compile(r"[\w.+\-/]+")
_CHANGES = (1, 1, 1, 2, 4)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, cut out, doubled, zeroed or put in, or cut short."""
    data = bytearray(content)
    for _ in range(rng.choice(_CHANGES)):
        at = _place(data, rng)
        length = rng.choice((1, 1, 2, 8, 100, len(data) // 3))
        way = rng.randrange(6)
        if way == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[at : at + length]
        elif way == 2:
            data[at:at] = data[at : at + length]
        elif way == 3:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif way == 4:
            data[at:at] = rng.choice(NASTY).encode("utf-8", "surrogatepass")
        else:
            data[at : at + length] = rng.randbytes(len(data[at : at + length]))
    return bytes(data[: _place(data, rng)] if rng.random() < 0.15 else data)


def _place(data: bytearray, rng: random.Random) -> int:
    """Often among the first bytes, where headers are."""
    return rng.randint(0, min(len(data), 64) if rng.random() < 0.4 else len(data))


def damaged_text(text: str, rng: random.Random) -> bytes:
    """A text some of whose words are nasty ones, gone, or each other's."""
    for _ in range(rng.choice(_CHANGES)):
        words = list(_WORD.finditer(text))
        if not words:
            break
        word = rng.choice(words)
        new = rng.choice(words).group() if rng.random() < 0.2 else rng.choice(NASTY)
        text = text[: word.start()] + new + text[word.end() :]
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")


def damaged_value(content: Any, rng: random.Random) -> Any:
    """Nested lists and dicts, with nasty values at some places, and some keys or entries gone or doubled."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice(_CHANGES)):
        places = _places(content)
        if not places:
            return nasty_value(rng)
        container, key = rng.choice(places)
        way = rng.random()
        if way < 0.15:
            del container[key]
        elif way < 0.25 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif way < 0.3 and isinstance(container, dict):
            container[rng.choice(NASTY)] = container.pop(key)
        else:
            container[key] = nasty_value(rng)
    return content


def nasty_value(rng: random.Random) -> Any:
    """A value that is rarely what belongs there."""
    if rng.random() < 0.05:
        deep: Any = 1
        for _ in range(rng.choice((30, 150))):
            deep = [deep]
        return deep
    return copy.deepcopy(rng.choice(_VALUES)) if rng.random() < 0.6 else rng.choice(NASTY)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers and keys in nested lists and dicts."""
    found, left = [], [value]
    while left:
        inner = left.pop()
        if isinstance(inner, dict | list):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            found += [(inner, key) for key in keys]
            left += [inner[key] for key in keys]
    return found


def damage_file(file: Path, rng: random.Random) -> None:
    """Damages the bytes of a file, or puts something else in its place."""
    way = rng.random()
    if way < 0.75:
        file.write_bytes(damaged_bytes(file.read_bytes(), rng))
        return
    file.unlink()
    if way < 0.79:
        file.write_bytes(b"")
    elif way < 0.84:
        file.mkdir()
    elif way < 0.88:
        os.mkfifo(file)
    elif way < 0.91:
        file.symlink_to(file.name)
    elif way < 0.94:
        file.write_bytes(rng.randbytes(1000))


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder, links and all."""
    return Path(shutil.copytree(source, target, symlinks=True))
