"""Models on the Hub: the model card and its facts, kept results, the code that travels, publishing."""

VIDEO_TO_MUSIC = "video-to-music"  # the name of the task, in pipelines and model cards
