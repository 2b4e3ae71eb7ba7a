"""The benchmark: fastcable beside what its users would pick instead, on the same work in the same run."""
