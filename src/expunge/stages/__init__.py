"""Stages of unlearning: each takes a recipe's section and the model as the stages before left it, and gives the
matrices that it changed."""
