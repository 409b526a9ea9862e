"""Many runs: tables and figures as experiments, planned, run side by side, and put together."""
