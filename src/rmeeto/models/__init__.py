"""Un-merged networks, whole without any reduction."""

from rmeeto.models.configs import VimConfig
from rmeeto.models.registry import create, names
from rmeeto.models.timm_vit import adopt, adopted, release
from rmeeto.models.vim import Vim, cast_weights

__all__ = ["Vim", "VimConfig", "adopt", "adopted", "cast_weights", "create", "names", "release"]
