"""Where models come from and go to: weight files, folders with model.safetensors and config.json, and the hub."""

from rmeeto.hub.bundle import Bundle, read_bundle, save_bundle
from rmeeto.hub.loading import build, bundle_folder, from_pretrained, load, read_model
from rmeeto.hub.official import Converted, read_official
from rmeeto.hub.remote import Hub, upload
from rmeeto.hub.saving import save
from rmeeto.hub.weights import load_weights, read_weights

__all__ = [
    "Bundle",
    "Converted",
    "Hub",
    "build",
    "bundle_folder",
    "from_pretrained",
    "load",
    "load_weights",
    "read_bundle",
    "read_model",
    "read_official",
    "read_weights",
    "save",
    "save_bundle",
    "upload",
]
