"""Reinforcement learning of language models: rollouts, advantages, losses."""
