"""Self-Filter for a vision-language model: what is hard, learned beside it from features of the user's own.

Model, images and features are made up here, so that it runs in seconds without a download; with your own, replace what
`main` makes. Needs transformers' Trainer (pip install 'gdig[train]').
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainingArguments,
)

from gdig.selection.methods.self_filter import hardest_rows
from gdig.training import ScoreNetTrainer, difficulty

IMAGE, PATCHES = 40, 4
"""Token that stands for a patch of the image, and patches of an image."""


def main() -> None:
    """Train, tell the difficulties, choose."""
    model, rows = tiny_llava(), made_up_rows(64)
    np.save("features.npy", np.random.default_rng(1).standard_normal((64, 12)).astype(np.float32))  # such as CLIP's

    features = np.load("features.npy")
    trainer = ScoreNetTrainer(
        model=model,
        args=TrainingArguments(
            "checkpoints",
            per_device_train_batch_size=8,  # rows that are weighed against each other
            num_train_epochs=2,
            learning_rate=1e-3,
            save_strategy="epoch",
            remove_unused_columns=False,  # the collator wants whole rows
            report_to=[],
        ),
        train_dataset=rows,
        data_collator=collate,
        features=features,  # row i of the dataset has row i of the features
    )
    trainer.train()  # train(resume_from_checkpoint=True) goes on after an interruption

    hard = difficulty(trainer.score_net, features)
    np.save("difficulty.npy", hard)
    print("rows to train on:", hardest_rows(features, hard, 10))


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """One line a row: places for the image, the question, the answer. Only the answer has labels."""
    prompts = [[IMAGE] * PATCHES + row["question"] for row in rows]
    longest = max(len(prompt) + len(row["answer"]) for prompt, row in zip(prompts, rows, strict=True))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for line, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        end = len(prompt) + len(row["answer"])
        ids[line, :end] = torch.tensor(prompt + row["answer"])
        labels[line, len(prompt) : end] = torch.tensor(row["answer"])
        mask[line, :end] = 1
    images = torch.tensor(np.stack([row["image"] for row in rows]))
    return {"pixel_values": images, "input_ids": ids, "labels": labels, "attention_mask": mask}


def tiny_llava() -> LlavaForConditionalGeneration:
    """A LLaVA of two layers with random weights."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=IMAGE + 1, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))


def made_up_rows(n: int) -> list[dict]:
    """Images of noise, questions and answers of a few tokens."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.standard_normal((3, 8, 8)).astype(np.float32),
            "question": rng.integers(1, IMAGE, 5).tolist(),
            "answer": rng.integers(1, IMAGE, int(rng.integers(3, 9))).tolist(),
        }
        for _ in range(n)
    ]


if __name__ == "__main__":
    main()
