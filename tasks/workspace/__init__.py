"""The project's folder: paths, atomic files, locks, environment variables, git, and the outcomes of stages."""
