"""The targets of `nann bench`: a gRPC server, a REST server, or a SavedModel in this process, behind one interface."""

from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.loadtest.targets.target import Target, TargetError

__all__ = ["Target", "TargetError", "make_target"]


def make_target(scenario: Scenario) -> Target:
    """Creates the scenario's target, without opening it."""
    address = scenario.target
    if address in ("session", "function"):
        from tfserving_ext.loadtest.targets.in_process import InProcessTarget

        return InProcessTarget(scenario)
    from tfserving_ext.serving.tls import ClientTls

    scheme, _, place = address.rstrip("/").partition("://")
    tls = ClientTls(scenario.ca, scenario.cert, scenario.key) if scheme in ("grpcs", "https") else None
    if scheme in ("grpc", "grpcs"):
        from tfserving_ext.loadtest.targets.grpc_server import GrpcTarget

        return GrpcTarget(place, tls)
    from tfserving_ext.loadtest.targets.rest_server import RestTarget

    return RestTarget(address.rstrip("/"), tls)
