"""What a student can do: one module a task, all of one kind."""
