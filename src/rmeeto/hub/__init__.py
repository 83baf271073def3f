"""Where models come from and go to: weight files, and folders with model.safetensors and config.json."""

from rmeeto.hub.bundle import Bundle, read_bundle, save_bundle
from rmeeto.hub.loading import build, bundle_folder, load
from rmeeto.hub.weights import load_weights, read_weights

__all__ = ["Bundle", "build", "bundle_folder", "load", "load_weights", "read_bundle", "read_weights", "save_bundle"]
