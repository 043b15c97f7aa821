"""Answers: views, tables and pages made from the enhanced layer."""
