"""What commands say to a person or a program: results, notices, progress, failures; no command is in here."""
