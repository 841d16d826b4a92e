"""What is measured of videos and encoders: rates, curves, what frames say of themselves."""
