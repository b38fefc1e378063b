"""Self-Filter's score net. transformers' Trainer trains the net together with a model."""

from gdig.training.score_net import ScoreNet, difficulty
from gdig.training.trainer import ScoreNetTrainer

__all__ = ["ScoreNet", "ScoreNetTrainer", "difficulty"]
