"""The training loop and what it stands on: devices, EMA teacher, optimizer, checkpoints, logs."""
