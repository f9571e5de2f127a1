"""Quantized products as Q/DQ around float ops."""
