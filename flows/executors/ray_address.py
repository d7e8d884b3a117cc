"""Asks who answers at the address of a Ray cluster; Ray itself tells a timeout after a minute, whatever is wrong."""

from __future__ import annotations

import socket

from learn.errors import ServerError

SECONDS = 30.0  # time to wait for an answer
TOKEN = "RAY_AUTH_TOKEN"
START = "ray start --head --ray-client-server-port"


def check_answers(place: str) -> None:
    """Checks that a Ray cluster answers at an address, and takes the token of this environment.

    Args:
        place: The address, such as ray://HOST:10001.

    Raises:
        ServerError: Nothing listens there, it is no Ray cluster, or the token is wrong or missing.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import ray_client_pb2 as messages
    from ray.core.generated import ray_client_pb2_grpc as client
    from ray.exceptions import AuthenticationError

    host, port = place.removeprefix("ray://").rsplit(":", 1)
    ask = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
        with init_grpc_channel(f"{host}:{port}") as channel:
            client.RayletDriverStub(channel).ClusterInfo(ask, timeout=SECONDS)
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        reason = f"nothing answers there ({why}); start its head with {START} {port}, or correct the address"
    except AuthenticationError:
        reason = f"RAY_AUTH_MODE is token, but there is no token; set {TOKEN} to that of its nodes"
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            reason = f"it refuses the token, or asks for one; set RAY_AUTH_MODE=token, and {TOKEN} to that of its nodes"
        elif error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            reason = f"it does not answer within {SECONDS:g} s; `ray status` on its head says how it is"
        else:
            reason = f"another server answers there; a cluster has the address of its head, and the port of {START}"
    else:
        return
    raise ServerError(f"the Ray cluster at {place} cannot be used: {reason} (docs/cluster.md)")
