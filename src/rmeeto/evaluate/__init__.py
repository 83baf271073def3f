"""What a model is worth: accuracy, cost, speed, of anything that can be called with images."""

from rmeeto.evaluate.accuracy import accuracy
from rmeeto.evaluate.cost import counted_cost, published_cost
from rmeeto.evaluate.environment import environment
from rmeeto.evaluate.graphs import Replay
from rmeeto.evaluate.speed import measure_speed

__all__ = ["Replay", "accuracy", "counted_cost", "environment", "measure_speed", "published_cost"]
