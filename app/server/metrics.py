"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Of one server; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "limner_http_requests", "Answers, by path and status", ("path", "status"), registry=registry
        )
        self.refused = Counter("limner_refused", "Requests that were answered 429", registry=registry)
        self.disconnected = Counter("limner_disconnected", "Clients that left before the end", registry=registry)
        self.pictures = Counter("limner_pictures", "Pictures drawn", registry=registry)
        self.tokens = Counter("limner_completion_tokens", "Tokens written, pictures included", registry=registry)
        self.first_event = Histogram(
            "limner_first_event_seconds", "To the first word or picture", registry=registry, buckets=SECONDS
        )
        self.answered = Histogram("limner_reply_seconds", "To the end of a reply", registry=registry, buckets=SECONDS)
        self.accepted = Gauge("limner_replies_accepted", "Replies that are being made or wait", registry=registry)
