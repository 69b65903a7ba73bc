"""Tests of lirpa_explain."""
