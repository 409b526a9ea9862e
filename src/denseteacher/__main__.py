"""``python -m denseteacher``, which ``torchrun -m`` takes too."""

from denseteacher.cli import main

main()
