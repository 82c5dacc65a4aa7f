"""BlitzNet: trunk, blocks, heads, anchors, decoding."""
