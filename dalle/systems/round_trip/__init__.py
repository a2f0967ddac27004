"""From a picture to a caption and back, or from a text to a picture and back, to choose by."""
