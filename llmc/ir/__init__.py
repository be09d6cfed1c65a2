"""The program, its dialect of operations, weights, score expressions, verifier and printer."""
