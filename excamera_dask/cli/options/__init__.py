"""What options of several commands take, and how they are added; no command is in here."""
