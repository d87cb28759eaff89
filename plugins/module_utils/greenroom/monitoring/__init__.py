"""Metrics, rules and alerts: what is scraped, what is ruled, what was proved to arrive (docs/monitoring.md)."""
