"""Commands about Lambda functions, on AWS or on this machine, and the options of those that run on them."""
