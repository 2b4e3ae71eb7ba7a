# cython: language_level=3
"""What publishers post, and whether it is in order: messages in fastcable's form, and messages and commands in AnyCable's,
which come by other ways than HTTP, too."""

from typing import NamedTuple

from fastcable._json import member_spans
from fastcable.stream_name import stream_name_error


class Refused(ValueError):
    """What is not taken as a broadcast: why, and the status to say so with."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


class Post(NamedTuple):
    """A message in AnyCable's form; `data` is its text, and `embedded` tells that it is a string."""

    stream: str
    data: bytes
    exclude: str | None
    embedded: bool


class Disconnect(NamedTuple):
    """AnyCable's command."""

    identifier: str
    reconnect: bool


def anycable_posts(value, bytes text not None, Py_ssize_t max_batch):
    """What is asked for in AnyCable's form: the messages, or the command. `text` is the JSON text of `value`."""
    cdef list messages
    cdef list spans
    if type(value) is dict and "command" in value and "stream" not in value:
        check_disconnect(value)
        payload = (<dict>value)["payload"]
        return Disconnect(payload["identifier"], payload.get("reconnect", False))
    if type(value) is dict:
        check_message(value)
        check_meta(value)
        messages = [value]
        spans = member_spans(text, b"data")
    elif type(value) is list:
        messages = value
        spans = check_batch(messages, text, max_batch, True)
    else:
        raise Refused("body must be an object with stream and data or with command, or an array of messages")
    return [
        Post(message["stream"], data, (message.get("meta") or {}).get("exclude_socket"), type(message["data"]) is str)
        for message, data in zip(messages, spans)
    ]


cdef list check_batch(list messages, bytes text, Py_ssize_t max_batch, bint anycable):
    """The data of the messages of a batch, if all of it is in order."""
    cdef Py_ssize_t index = 0
    if 0 < max_batch < len(messages):
        raise Refused(f"a batch has at most max_batch ({max_batch}) messages, not {len(messages)}", 413)
    try:
        for index, message in enumerate(messages):
            check_message(message)
            if anycable:
                check_meta(message)
            else:
                check_options(message)
    except Refused as problem:
        raise in_batch(index, problem) from None
    return member_spans(text, b"data")


cdef object in_batch(Py_ssize_t index, problem):
    return Refused(f"message {index} of the batch: {problem}", problem.status)


cdef int check_message(message) except -1:
    """Raise `Refused` unless a message of a broadcast is in order."""
    cdef dict members
    if type(message) is not dict:
        raise Refused("must be an object with stream and data")
    members = message
    if "stream" not in members:
        raise Refused("stream is missing")
    problem = stream_name_error(members["stream"])
    if problem is not None:
        raise Refused(f"stream {problem}")
    if "data" not in members:
        raise Refused("data is missing")
    return 0


cdef int check_options(dict members) except -1:
    if type(members.get("retain", False)) is not bool:
        raise Refused("retain must be true or false")
    if type(members.get("exclude", "")) is not str:
        raise Refused("exclude must be a string: the socket id of a client")
    return 0


cdef int check_meta(dict members) except -1:
    """The options of AnyCable's messages: of those that are not for its history there is one. null is as none."""
    meta = members.get("meta")
    if meta is None:
        return 0
    if type(meta) is not dict:
        raise Refused("meta must be an object")
    exclude = (<dict>meta).get("exclude_socket")
    if exclude is not None and type(exclude) is not str:
        raise Refused("meta.exclude_socket must be a string: the socket id of a client")
    return 0


cdef int check_disconnect(dict command) except -1:
    """Raise `Refused` unless a command of AnyCable's is in order."""
    if command["command"] != "disconnect":
        raise Refused('command must be "disconnect"')
    payload = command.get("payload")
    if type(payload) is not dict:
        raise Refused("payload must be an object with identifier and reconnect")
    if type((<dict>payload).get("identifier")) is not str:
        raise Refused("payload.identifier must be a string: the identifiers of a connection")
    if type((<dict>payload).get("reconnect", False)) is not bool:
        raise Refused("payload.reconnect must be true or false")
    return 0
