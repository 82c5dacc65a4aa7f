"""What a tutor is, what it says, and what is checked of that."""
