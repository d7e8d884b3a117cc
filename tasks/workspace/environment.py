"""The environment variables of this project. A user sets the first three; the others are between its own processes."""

WARM = "TRACKWAY_WARM"  # `off`, or the socket of another warm process than that of this folder
PATIENCE = "TRACKWAY_PATIENCE"  # seconds that a silent MLflow server is waited for after a training; 30 by default
PASSWORD = "TRACKWAY_PASSWORD"  # of the servers of `trackway up`; no file and no argument has it

HOST = "TRACKWAY_HOST"  # where the servers of `trackway up` listen
SERVERS = "TRACKWAY_SERVERS"  # by which the processes of one `up` are known
LIFELINE = "TRACKWAY_LIFELINE"  # by which a flow asks its stages to end with it
OUTCOME = "TRACKWAY_OUTCOME"  # the file in which a stage leaves its outcome for its flow
WAITING = "TRACKWAY_WAITING"  # a file that a stage makes for the time in which it waits for another one
FLOW_RUN = "TRACKWAY_FLOW_RUN"  # the id of the flow run that started a stage
FLOW_RUN_URL = "TRACKWAY_FLOW_RUN_URL"  # and its page
TRACKING = "TRACKWAY_TRACKING"  # the store's address for the process that writes a run: `ps` shows arguments
