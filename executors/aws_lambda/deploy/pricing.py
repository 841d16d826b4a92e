"""Prices of what a job uses besides Lambda itself (those are `fleet.pricing`): storage, network, an instance, logs.

Source: AWS's public price lists of S3, EC2, CloudWatch and ECR, on demand, first tier, us-east-1, as they stood in early
2025. Other regions differ by up to a third; taxes and free tiers are left out.
"""

from __future__ import annotations

SOURCE = "AWS price lists of S3, EC2, CloudWatch and ECR, on demand, first tier, us-east-1"
AS_OF = "2025-02"

S3_READ = 0.0004 / 1000
"""Dollars a GET or HEAD request."""
S3_WRITE = 0.005 / 1000
"""Dollars a PUT, COPY, POST or LIST request, parts of uploads included."""
INTERNET_GB = 0.09
"""Dollars a GB out of AWS; what comes in is free, and so is S3 to Lambda in one region."""
REGIONAL_GB = 0.01
"""Dollars a GB between a function and an instance's public address in the same region, in each direction."""
PUBLIC_ADDRESS_HOUR = 0.005
LOG_GB = 0.50
"""Dollars a GB of log taken in."""

INSTANCE_HOUR: dict[str, float] = {
    "c7g.medium": 0.0363,
    "c7g.large": 0.0725,
    "c7g.xlarge": 0.145,
    "c7g.2xlarge": 0.29,
    "c7i.large": 0.08925,
    "c7i.xlarge": 0.1785,
    "c7i.2xlarge": 0.357,
    "c7i.4xlarge": 0.714,
    "t3.medium": 0.0416,
    "t4g.medium": 0.0336,
}
"""Dollars an hour of an instance on demand, Linux, by type."""
