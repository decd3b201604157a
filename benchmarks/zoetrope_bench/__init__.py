"""Load generation, side-by-side comparisons and reports: every figure in the README has a command here."""
