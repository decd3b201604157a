"""Glue to Triton's python backend; imported only inside its processes."""
