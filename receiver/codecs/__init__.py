"""JSCC codecs: images to complex symbols and back, one file a family."""
