"""What a batch is judged by: matching, losses, what tutors' words become."""
