"""The servers of `trackway up`, `down` and `status`, who may use them, and Prefect's server for a single run."""
