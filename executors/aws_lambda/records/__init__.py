"""What is kept of fleets and looked at afterwards: event logs, folders of clusters, histories, leftovers, timelines.

They read and write files; the deciding core (`executors.aws_lambda.fleet`) knows nothing of them.
"""

from executors.aws_lambda.records.errors import EventLogError, PlotUnavailable, UnknownCluster

__all__ = ["EventLogError", "PlotUnavailable", "UnknownCluster"]
