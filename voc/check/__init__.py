"""What is wrong with a data set, all of it at once, before anything is trained from it."""
