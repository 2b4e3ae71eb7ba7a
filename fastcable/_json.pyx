# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Where the values of JSON members stand in the text (RFC 8259).

One pass without recursion: a value's end is found by counting brackets and stepping over strings, nothing is decoded
but keys with escapes. Every read is preceded by a comparison with the end, so text that is not JSON is safe too; it is
refused where the structure that is followed here does not hold, and only there.
"""

from libc.string cimport memcmp

import orjson

ctypedef const unsigned char* chars


cdef inline Py_ssize_t _skip_space(chars text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    while at < end and (text[at] == b' ' or text[at] == b'\n' or text[at] == b'\r' or text[at] == b'\t'):
        at += 1
    return at


cdef inline Py_ssize_t _skip_string(chars text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """From behind the opening quote to behind the closing one; -1 where there is none."""
    while at < end:
        if text[at] == b'"':
            return at + 1
        at += 2 if text[at] == b'\\' else 1
    return -1


cdef Py_ssize_t _skip_value(chars text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Behind the value that starts at `at`; -1 where none starts or it does not end."""
    cdef Py_ssize_t start = at
    cdef Py_ssize_t depth = 0
    cdef unsigned char c
    while at < end:
        c = text[at]
        if c == b'"':
            at = _skip_string(text, at + 1, end)
            if at < 0 or depth == 0:
                return at
        elif c == b'{' or c == b'[':
            depth += 1
            at += 1
        elif c == b'}' or c == b']':
            if depth == 0:
                break
            depth -= 1
            at += 1
            if depth == 0:
                return at
        elif depth == 0 and (c == b',' or c == b':' or c == b' ' or c == b'\n' or c == b'\r' or c == b'\t'):
            break
        else:
            at += 1
            if depth == 0 and at < end and (text[at] == b'"' or text[at] == b'{' or text[at] == b'['):
                return -1
    return at if depth == 0 and at > start else -1


cdef bint _same_key(bytes body, chars text, Py_ssize_t start, Py_ssize_t end, bytes key) except -1:
    """Whether the member name at body[start:end], quotes not included, is `key`."""
    cdef Py_ssize_t at
    for at in range(start, end):
        if text[at] == b'\\':
            return orjson.loads(body[start - 1 : end + 1]).encode() == key
    return end - start == len(key) and memcmp(text + start, <chars> key, len(key)) == 0


cdef Py_ssize_t _skip_object(bytes body, chars text, Py_ssize_t at, Py_ssize_t end, bytes key, list spans) except -1:
    """From the opening brace to behind the closing one; the wanted value is appended to `spans`."""
    cdef Py_ssize_t name, name_end, value, value_end
    cdef Py_ssize_t found = -1, found_end = -1
    if at >= end or text[at] != b'{':
        raise ValueError("expected a JSON object")
    at = _skip_space(text, at + 1, end)
    while at < end and text[at] == b'"':
        name = at + 1
        at = _skip_string(text, name, end)
        if at < 0:
            raise ValueError("a JSON string has no end")
        name_end = at - 1
        at = _skip_space(text, at, end)
        if at >= end or text[at] != b':':
            raise ValueError("expected a colon in a JSON object")
        value = _skip_space(text, at + 1, end)
        value_end = _skip_value(text, value, end)
        if value_end < 0:
            raise ValueError("expected a JSON value")
        if _same_key(body, text, name, name_end, key):
            found, found_end = value, value_end
        at = _skip_space(text, value_end, end)
        if at >= end or text[at] != b',':
            break
        at = _skip_space(text, at + 1, end)
    if at >= end or text[at] != b'}':
        raise ValueError("expected the end of a JSON object")
    if found < 0:
        raise ValueError("a JSON object has no such member")
    spans.append(body[found:found_end])
    return at + 1


def member_spans(bytes body not None, bytes key not None):
    cdef chars text = body
    cdef Py_ssize_t end = len(body)
    cdef Py_ssize_t at = _skip_space(text, 0, end)
    cdef list spans = []
    if at < end and text[at] == b'[':
        at = _skip_space(text, at + 1, end)
        if at >= end or text[at] != b']':
            while True:
                at = _skip_space(text, _skip_object(body, text, at, end, key, spans), end)
                if at >= end or text[at] != b',':
                    break
                at = _skip_space(text, at + 1, end)
        if at >= end or text[at] != b']':
            raise ValueError("expected the end of a JSON array")
        at += 1
    else:
        at = _skip_object(body, text, at, end, key, spans)
    if _skip_space(text, at, end) != end:
        raise ValueError("something follows the JSON value")
    return spans


def embedded_json(bytes string not None):
    try:
        text = orjson.loads(string).encode()
        return string if orjson.loads(text) is None else text
    except orjson.JSONDecodeError:
        return string
