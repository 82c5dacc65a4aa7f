"""The tutor cache: one Zarr v3 store of what the tutors said, and a memory-mapped reader."""
