def member_spans(body: bytes, key: bytes) -> list[bytes]:
    """The raw value of the last member `key` of the top-level object, or of each object of the top-level array.

    `body` is JSON that a parser has accepted already; `key` is UTF-8 without quotes. What is cut out is the value's own
    text without white space around it, so that no number is rounded and no depth is lost. Of members with the same
    name the last one counts, as in orjson. Other input raises ValueError or yields some part of it.
    """

def embedded_json(string: bytes) -> bytes:
    """The JSON text that a JSON string holds, as it is; the string itself if it holds none, or only null.

    Text that orjson refuses (a number beyond all doubles, nesting beyond 1024) is none.
    """
