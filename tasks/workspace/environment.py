"""Names of this project's environment variables; users set the first five, the others connect its own processes."""

WARM = "TRACKWAY_WARM"  # `off`, or the socket of another warm process than this folder's
PATIENCE = "TRACKWAY_PATIENCE"  # seconds for which a silent MLflow server is asked again after a training; default 30
MIRROR = "DATA_MIRROR"  # a folder or an address with the datasets' files and pretrained weights, tried first
PASSWORD = "TRACKWAY_PASSWORD"  # password of the servers of `trackway up`; it is in no file and no argument

NODE_FOLDER = "TRACKWAY_NODE_FOLDER"  # where a node of a cluster keeps DVC's cache and its work; set before `ray start`

HOST = "TRACKWAY_HOST"  # the address at which the servers of `trackway up` listen
SERVERS = "TRACKWAY_SERVERS"  # marks the processes of one `trackway up`
LIFELINE = "TRACKWAY_LIFELINE"  # set by a flow so that its stages end with it
OUTCOME = "TRACKWAY_OUTCOME"  # the file in which a stage leaves its outcome for its flow
WAITING = "TRACKWAY_WAITING"  # a file that exists while a stage waits for another one
FLOW_RUN = "TRACKWAY_FLOW_RUN"  # the id of the flow run that started a stage
FLOW_RUN_URL = "TRACKWAY_FLOW_RUN_URL"  # the page of that flow run
ORIGIN = "TRACKWAY_ORIGIN"  # on a node of a cluster: the file that says where the stage comes from
SHARED_GPU = "TRACKWAY_SHARED_GPU"  # set if the cluster has placed several stages on one GPU
TRACKING = "TRACKWAY_TRACKING"  # the store's address for the process that writes a run, since `ps` shows arguments
