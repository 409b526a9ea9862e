"""``python -m denseteacher.cli``, which processes that a run starts use."""

from denseteacher.cli import main

main()
