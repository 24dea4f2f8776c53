"""Writes descriptions of music from a track's tags: tags, data2text, prompt2text."""
