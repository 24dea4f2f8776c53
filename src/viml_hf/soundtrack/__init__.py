"""From a recommended track to the sound of a video: the moment, the preview, the timeline."""
