"""Online meta-learning: tasks arrive one after another, and the agent is meta-trained on those it has met."""

from metarl.online.play import play_stream
from metarl.online.results import OnlineResults
from metarl.online.streams import Stream, make_stream

__all__ = ["OnlineResults", "Stream", "make_stream", "play_stream"]
