"""From a name to a model that runs: skeleton, tokenizer, the runtime and how its decode is done."""
