"""What moves: every column of every table is declared here, and nowhere else."""
