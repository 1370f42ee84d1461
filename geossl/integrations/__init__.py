"""Encoders inside other libraries' tasks: a backbone, and how terratorch and rslearn find it."""
