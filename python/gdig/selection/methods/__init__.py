"""The methods of choosing from one finished sweep. One file a method; `METHODS` names them."""

from __future__ import annotations

from gdig.selection.method import MethodSpec
from gdig.selection.methods import facility, g2is, self_filter
from gdig.selection.methods.bids import bids
from gdig.selection.methods.diverse import diverse
from gdig.selection.methods.gdig import gdig
from gdig.selection.methods.gist import gist
from gdig.selection.methods.less import less
from gdig.selection.methods.loss import loss
from gdig.selection.methods.random import random
from gdig.selection.methods.round_robin import round_robin
from gdig.selection.methods.tagcos import tagcos
from gdig.selection.methods.top import top

METHODS: dict[str, MethodSpec] = {
    "gdig": MethodSpec(gdig, clusters=True),
    "less": MethodSpec(less, ordered=True, checkpoints=True),
    "round-robin": MethodSpec(round_robin, ordered=True),
    "bids": MethodSpec(bids, ordered=True),
    "gist": MethodSpec(gist, ordered=True),
    "g2is": MethodSpec(g2is.g2is, ordered=True, neighbours=g2is.asked),
    "tagcos": MethodSpec(tagcos, ordered=True, clusters=True),
    "facility": MethodSpec(facility.facility, ordered=True, neighbours=facility.asked),
    "self-filter": MethodSpec(self_filter.self_filter, ordered=True, neighbours=self_filter.asked),
    "top": MethodSpec(top, ordered=True),
    "diverse": MethodSpec(diverse, clusters=True),
    "loss": MethodSpec(loss, ordered=True),
    "random": MethodSpec(random),
}
"""By the name that the option `method` knows them by (gdig.config.options.Method)."""
