"""AWS Lambda functions as full Dask workers."""
