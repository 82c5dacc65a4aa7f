"""The report on recipes that were run: the thesis' tables and figures beside ours."""
