"""What every test process begins with."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
"""Half the time of tests with XLA would go into its optimizer, which is not what they are about. Read when jax starts."""
