"""A store under way: parts, whole shards, going on where a run stopped."""
