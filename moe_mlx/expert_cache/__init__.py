"""The expert cache of one MoE layer: who has which slot, who gives way, how a miss is read, and what computes."""
