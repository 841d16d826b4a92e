"""AWS Lambda functions as Dask workers, and what deploys, runs and imitates them."""
