"""LSTM, GRU and RNN from gates, loops and unrolled steps."""
