"""The project's folder: its paths, atomic files, locks, environment variables, git, and what a stage tells its flow."""
