"""What tests of encoders share."""

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    """Whatever is tried on the network is refused, and noted."""
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments[-1])
        raise OSError("no network in tests")

    # Of its own accord huggingface_hub asks, once per process, for names of programs that may be calling it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried
