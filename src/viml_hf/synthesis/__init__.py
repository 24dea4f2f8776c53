"""From the tags of a track to a description of its music: tags, data2text, prompt2text."""
