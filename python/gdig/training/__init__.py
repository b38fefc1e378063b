"""Self-Filter's score net, trained beside a model on top of transformers' Trainer."""

from gdig.training.score_net import ScoreNet, difficulty
from gdig.training.trainer import ScoreNetTrainer

__all__ = ["ScoreNet", "ScoreNetTrainer", "difficulty"]
