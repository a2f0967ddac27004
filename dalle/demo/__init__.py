"""The whole project on its built-in pictures: train three models, generate, judge."""
