"""A refusal reaches whoever asked: broker and customer know every message by the same id."""

from __future__ import annotations

from typing import get_args

import pytest
from samples import EXAMPLES

from broker_node.refusals import refuse
from broker_node.sends import Session, ToSession
from common import messages
from common.errors import RefusedError
from common.references import UNANSWERED, reference_of

ASKED = sorted(
    {*get_args(messages.FromAccount), *get_args(messages.FromShop)}, key=lambda kind: kind.__name__
)
ANSWERS = sorted({*get_args(messages.ToAccount), *get_args(messages.ToShop)}, key=lambda kind: kind.__name__)
SID = b"s" * 16


def example(kind: type[messages.Message]) -> messages.Message:
    found = EXAMPLES[kind.__name__]
    assert isinstance(found, kind)
    return found


@pytest.mark.parametrize("kind", ASKED, ids=lambda kind: kind.__name__)
def test_a_customer_finds_the_refusal_of_whatever_it_sends(kind: type[messages.Message]) -> None:
    question = example(kind)
    refused = refuse(Session(SID, "shop", None, None, None), question, RefusedError("not_found"))
    if kind in UNANSWERED:
        assert refused == []
        return
    (told,) = refused
    assert isinstance(told, ToSession)
    assert isinstance(told.body, messages.Refused)
    assert (told.sid, reference_of(told.body)) == (SID, reference_of(question))
    assert told.body.reference in [getattr(question, name) for name in question.__struct_fields__]


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_every_answer_says_what_it_answers(kind: type[messages.Message]) -> None:
    # The end of a session answers nothing, and concerns all that is asked in it.
    assert (reference_of(example(kind)) is None) == (kind is messages.SessionEnded)
