"""The store on disk: names, types, rules, digests. FORMAT.md is its promise."""
