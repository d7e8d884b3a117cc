"""`trackway up`, `down`, `status`: the servers, who may use them, and Prefect's server for one run."""
