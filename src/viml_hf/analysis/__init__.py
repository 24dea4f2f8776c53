"""What a sound or a video measurably is. Nothing here knows a model."""
