"""A service under load before a real Prometheus."""

from tests.alerts.outages import cluster, cluster_storage, proxies, upstream, watch

__all__ = ["cluster", "cluster_storage", "proxies", "upstream", "watch"]
