"""The verbs there are."""

from __future__ import annotations

#: verb -> one line of help. Each lives in `moe_mlx.commands.<verb>` with `add_arguments(parser)` and `run(args)`.
VERBS: dict[str, str] = {
    "list": "the models on this machine and known ones, and what fits of each",
    "chat": "talk to a model, its expert cache alive beside the conversation",
    "generate": "answer one prompt",
    "replay": "play a recording of the app again, without a model",
    "serve": "serve a model over HTTP to chats and agents: OpenAI's and Anthropic's protocols",
    "launch": "start a coding agent on a running server",
    "fetch": "download a model from the hub, and go on where it was interrupted",
    "convert": "reshard an MLX checkpoint into one file per expert",
    "verify": "re-read every digest of a store",
    "inspect": "layers, experts, sizes and what caps mean for a store or checkpoint",
    "families": "every MoE family of mlx-lm, its router, and what is tested of it",
    "eval": "what a cap and a routing policy cost in quality and save in reads, token by token",
    "simulate": "replay a recorded trace at any cap, policy and eviction, without the model",
    "bench": "measure decode and prefill against mlx-lm itself, in one run",
    "lora": "train a LoRA adapter under the cap, experts frozen and streamed",
    "plan": "predict from headers alone what fits and how fast, before any download",
    "doctor": "examine this machine: what crossings, reads and decode cost here, and what suits it",
    "profile": "histories by task: list, export, import, remove",
    "config": "the config file's path, and the settings in force",
    "completions": "print shell completions for bash, zsh or fish",
    "rig": "run a command under a memory limit and a disk read limit",
}
