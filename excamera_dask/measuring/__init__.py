"""What is measured of videos and encoders: errors against an original, rates, what frames say of themselves."""
