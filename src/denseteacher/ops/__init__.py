"""Pure tensor functions: no state, no files. Shapes use the letters of ``denseteacher.structures``."""
